"""Executions by shape, and runs that look like N+1."""

from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.workload.executions import Execution
from bot.core.query_optimizer.workload.shapes import OWN, Workload


def workload_of(*executions, dialect="postgres", **options):
    workload = Workload(**options)
    workload.add_all(executions, dialect)
    return workload


def test_statements_that_differ_in_values_are_one_shape():
    workload = workload_of(
        Execution("SELECT a FROM t WHERE b = 1", 0.5, rows=2),
        Execution("select a from t where b = 22;", 1.5, rows=4),
        Execution("SELECT a FROM t WHERE b = $1", 4.0, calls=8, longest=3.0),
        Execution("  ;\n", 9.0),
        Execution(f"{OWN} SELECT 1", 9.0),
    )
    (shape,) = workload.ranked()
    assert (shape.calls, shape.seconds, shape.longest) == (10, 6.0, 3.0)
    assert shape.mean_rows == 3, "of the calls that tell their rows"
    assert shape.example == "select a from t where b = 22;", "the slowest that has its values"
    assert (workload.calls, workload.seconds) == (10, 6.0)


def test_memory_is_bounded_by_shapes_and_nothing_of_the_time_is_lost():
    workload = Workload(max_shapes=10)
    for number in range(1_000):
        workload.add(Execution(f"SELECT a{number} FROM t", 0.001 * number), "postgres")
        assert len(workload.shapes) <= 20
    ranked = workload.ranked()
    assert [each.normal_form for each in ranked[:2]] == ["SELECT a999 FROM t", "SELECT a998 FROM t"]
    assert len(ranked) == 10
    kept = sum(each.seconds for each in ranked)
    assert abs(kept + workload.dropped_seconds - workload.seconds) < 1e-6
    assert workload.dropped_shapes == 990


def test_what_runs_in_a_function_is_not_counted_twice():
    inner = Execution("SELECT 1 FROM t", 2.0, nested=True)
    workload = workload_of(Execution("SELECT f()", 3.0), inner)
    assert (workload.calls, workload.seconds) == (1, 3.0)
    assert [each.nested for each in workload.ranked()] == [False, True]


def test_one_database_and_one_user():
    workload = Workload()
    others = workload.add_all(
        [
            Execution("SELECT 1", 1.0, database="bot", user="a"),
            Execution("SELECT 2", 1.0, database="bot", user="b"),
            Execution("SELECT 3", 1.0, database="x", user="a"),
            Execution("SELECT 4", 1.0),
        ],
        "mysql",
        database="bot",
        user="a",
    )
    assert (workload.calls, others) == (1, 3)


def test_a_text_that_ends_within_a_string_shows_nothing_of_it():
    (shape,) = workload_of(Execution("SELECT a FROM t WHERE b = 'secret words", 1.0)).ranked()
    assert "secret" not in shape.normal_form


def test_the_value_of_a_setting_is_a_value():
    texts = ["SET my.token = secret", "SET SESSION my.token TO secret", "set @a := 'secret'"]
    assert not any("secret" in workload_of(Execution(text, 1.0)).ranked()[0].normal_form for text in texts)
    (update,) = workload_of(Execution("UPDATE t SET a = b", 1.0)).ranked()
    assert update.normal_form == "UPDATE t SET a = b"


def run_of(values, *, pause=0.01, session="1", text="SELECT a FROM t WHERE b = {}"):
    return [
        Execution(text.format(value), 0.1, at=1000 + pause * place, session=session)
        for place, value in enumerate(values)
    ]


def test_a_run_of_other_values_on_one_connection():
    many = DEFAULTS.n_plus_one_threshold
    (shape,) = workload_of(*run_of(range(many + 3))).ranked()
    assert (shape.repeats.runs, shape.repeats.longest, shape.repeats.statements) == (1, many + 3, many + 3)


def test_what_is_no_run():
    many = DEFAULTS.n_plus_one_threshold
    slow = run_of(range(3 * many), pause=DEFAULTS.n_plus_one_window * 1.5)
    same = run_of([7] * 3 * many)
    apart = [run_of([value], session=str(value))[0] for value in range(3 * many)]
    unknown = [each._replace(at=None) for each in run_of(range(3 * many))]
    for executions in (slow, same, apart, unknown):
        (shape,) = workload_of(*executions).ranked()
        assert shape.repeats.runs == 0


def test_runs_of_two_connections_that_take_turns():
    many = DEFAULTS.n_plus_one_threshold
    one, two = run_of(range(many)), run_of(range(many), session="2")
    turns = [each for pair in zip(one, two, strict=True) for each in pair]
    (shape,) = workload_of(*turns).ranked()
    assert (shape.repeats.runs, shape.repeats.longest) == (2, many)
