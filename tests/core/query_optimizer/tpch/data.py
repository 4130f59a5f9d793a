"""Tables and data of TPC-H, small: as its specification (section 4.2) draws them, values repeated more."""

import random
from datetime import date, timedelta

TYPES = {
    "region": "r_regionkey INTEGER PRIMARY KEY, r_name TEXT NOT NULL, r_comment TEXT",
    "nation": """
        n_nationkey INTEGER PRIMARY KEY, n_name TEXT NOT NULL, n_regionkey INTEGER NOT NULL,
        n_comment TEXT""",
    "supplier": """
        s_suppkey INTEGER PRIMARY KEY, s_name TEXT NOT NULL, s_address TEXT, s_nationkey INTEGER NOT NULL,
        s_phone TEXT, s_acctbal BIGINT, s_comment TEXT""",
    "part": """
        p_partkey INTEGER PRIMARY KEY, p_name TEXT NOT NULL, p_mfgr TEXT, p_brand TEXT, p_type TEXT,
        p_size INTEGER, p_container TEXT""",
    "partsupp": """
        ps_partkey INTEGER NOT NULL, ps_suppkey INTEGER NOT NULL, ps_availqty BIGINT, ps_supplycost BIGINT,
        PRIMARY KEY (ps_partkey, ps_suppkey)""",
    "customer": """
        c_custkey INTEGER PRIMARY KEY, c_name TEXT NOT NULL, c_address TEXT, c_nationkey INTEGER NOT NULL,
        c_phone TEXT, c_acctbal BIGINT, c_mktsegment TEXT, c_comment TEXT""",
    "orders": """
        o_orderkey INTEGER PRIMARY KEY, o_custkey INTEGER NOT NULL, o_orderstatus TEXT, o_totalprice BIGINT,
        o_orderdate TEXT, o_orderpriority TEXT, o_shippriority INTEGER, o_comment TEXT""",
    "lineitem": """
        l_orderkey INTEGER NOT NULL, l_linenumber INTEGER NOT NULL, l_partkey INTEGER NOT NULL,
        l_suppkey INTEGER NOT NULL, l_quantity BIGINT, l_extendedprice BIGINT, l_discount BIGINT,
        l_tax BIGINT, l_returnflag TEXT, l_linestatus TEXT, l_shipdate TEXT, l_commitdate TEXT,
        l_receiptdate TEXT, l_shipinstruct TEXT, l_shipmode TEXT, PRIMARY KEY (l_orderkey, l_linenumber)""",
}

REGIONS = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
NATIONS = (
    ("BRAZIL", 1), ("CANADA", 1), ("CHINA", 2), ("INDIA", 2), ("FRANCE", 3), ("GERMANY", 3),
    ("SAUDI ARABIA", 4), ("KENYA", 0),
)  # fmt: skip
FIRST, LAST = date(1992, 1, 1), date(1998, 8, 2)


def ddl():
    return [f"CREATE TABLE {table} ({columns})" for table, columns in TYPES.items()]


def rows(seed, parts=120, suppliers=24, customers=60, orders=600):
    """``{table: [row, ...]}``; some of what may be NULL is."""
    draw = random.Random(seed)
    maybe = lambda value: None if draw.random() < 0.03 else value  # noqa: E731
    phone = lambda: f"{draw.choice((13, 17, 18, 23, 29, 30, 31, 33))}-{draw.randrange(1000):03}"  # noqa: E731
    day = lambda start, low, high: (start + timedelta(draw.randint(low, high))).isoformat()  # noqa: E731
    made = {
        "region": [(number, name, None) for number, name in enumerate(REGIONS)],
        "nation": [(number, *nation, "") for number, nation in enumerate(NATIONS)],
        "supplier": [
            (
                n, f"Supplier#{n:03}", maybe("street"), draw.randrange(len(NATIONS)), phone(),
                draw.randint(-99_999, 999_999), draw.choice(("", "Customer of old, Complaints", "quick")),
            )
            for n in range(suppliers)
        ],
        "part": [
            (
                n, f"{draw.choice(('green', 'forest', 'red'))} {draw.choice(('green', 'mint'))}",
                f"Manufacturer#{draw.randint(1, 3)}", f"Brand#{draw.choice((12, 23, 34, 45))}",
                f"{draw.choice(('PROMO', 'ECONOMY', 'MEDIUM POLISHED'))} {draw.choice(('BRASS', 'TIN'))}",
                draw.choice((3, 9, 14, 15)),
                f"{draw.choice(('SM', 'MED', 'LG'))} {draw.choice(('BOX', 'CASE'))}",
            )
            for n in range(parts)
        ],
        "partsupp": [
            (part, (part + step * 7) % suppliers, draw.randint(1, 200), draw.randint(100, 999))
            for part in range(parts)
            for step in range(4)
        ],
        "customer": [
            (
                n, f"Customer#{n:03}", "", draw.randrange(len(NATIONS)), phone(),
                draw.randint(-99_999, 999_999), draw.choice(("BUILDING", "MACHINERY")), maybe("never sleeps"),
            )
            for n in range(customers)
        ],
        "orders": [],
        "lineitem": [],
    }  # fmt: skip
    for order in range(orders):
        ordered = FIRST + timedelta(draw.randrange((LAST - FIRST).days))
        made["orders"].append(
            (
                order, draw.randrange(customers * 2 // 3), draw.choice("FOP"),
                draw.randint(1_000, 5_000) * 100, ordered.isoformat(),
                draw.choice(("1-URGENT", "2-HIGH", "5-LOW")), 0,
                draw.choice(("", "special requests", "special delivery requests", None)),
            )
        )  # fmt: skip
        for line in range(draw.randint(1, 7)):
            part = draw.randrange(parts)
            made["lineitem"].append(
                (
                    order, line, part, (part + draw.randrange(4) * 7) % suppliers, draw.randint(1, 50),
                    draw.randint(900, 9_000), draw.randint(0, 10), draw.randint(0, 8), draw.choice("RAN"),
                    draw.choice("OF"), day(ordered, 1, 121), day(ordered, 30, 90),
                    maybe(day(ordered, 2, 151)), draw.choice(("DELIVER IN PERSON", "NONE")),
                    draw.choice(("AIR", "AIR REG", "MAIL", "SHIP", "RAIL")),
                )
            )  # fmt: skip
    return made
