"""What a call of a function may do to a result: differ from call to call, or write (pure)."""

from __future__ import annotations

import functools
from typing import Any

from bot.core.query_optimizer.census import functions_among

# Functions whose result differs from call to call, or that have an effect, by name in lower case.
# sqlglot knows some of them as types of their own, whose names are the same without underscores.
_VOLATILE = frozenset(
    name.replace("_", "")
    for name in (
        "now random rand uuid newid gen_random_uuid uuid_generate_v4 sysdate curdate curtime current_date "
        "current_time current_timestamp localtime localtimestamp clock_timestamp statement_timestamp "
        "transaction_timestamp timeofday unix_timestamp utc_timestamp utc_date utc_time current_user "
        "session_user user current_setting set_config nextval currval lastval setval last_insert_id "
        "last_insert_rowid changes total_changes row_count found_rows connection_id randomblob sleep "
        "pg_sleep pg_advisory_lock pg_advisory_xact_lock pg_try_advisory_lock pg_advisory_unlock "
        "pg_notify txid_current pg_backend_pid get_lock release_lock benchmark load_extension dblink "
        "current_timestamp_ltz systimestamp current_datetime getdate current_role current_catalog "
        "current_schema current_schemas version database schema system_user setseed random_normal "
        "pg_try_advisory_xact_lock pg_advisory_unlock_all pg_advisory_lock_shared is_free_lock is_used_lock "
        "pg_is_in_recovery pg_relation_size pg_total_relation_size pg_table_size pg_database_size "
        "pg_postmaster_start_time pg_current_wal_lsn txid_current_if_assigned pg_current_xact_id "
        "pg_cancel_backend pg_terminate_backend pg_sleep_for pg_sleep_until uuid_short sqlite_version "
        "inet_client_addr inet_server_addr currentdatabase to_regclass age"
    ).split()
)

# Session settings that change no result. Any other (search_path, time zone, role) may change them all.
HARMLESS_SETTINGS = frozenset(
    (
        "statement_timeout lock_timeout idle_in_transaction_session_timeout application_name transaction "
        "autocommit work_mem max_execution_time innodb_lock_wait_timeout wait_timeout net_read_timeout "
        "net_write_timeout enable_seqscan enable_indexscan client_min_messages synchronous_commit "
        "busy_timeout journal_mode synchronous cache_size temp_store mmap_size foreign_keys wal_checkpoint "
        "wal_autocheckpoint optimize table_info table_xinfo table_list index_list index_info index_xinfo "
        "foreign_key_list foreign_key_check integrity_check quick_check database_list page_count page_size "
        "freelist_count user_version application_id auto_vacuum locking_mode compile_options query_only "
        "secure_delete threads analysis_limit cell_size_check journal_size_limit data_version"
    ).split()
)

# Of those functions, the ones that may change a table, or run what does, or change what a name means.
_VOLATILE_WRITERS = frozenset(("dblink", "loadextension", "setconfig"))

# Functions that sqlglot has no type for and that are known to depend on their arguments only: by the
# documentation of SQLite and MySQL, and IMMUTABLE in every form in PostgreSQL 15's pg_proc. Any other
# unknown one may be the user's own and do anything.
_PURE = frozenset(
    (
        "instr printf format quote unicode hex typeof likelihood glob json json_array json_object json_set "
        "json_insert json_replace json_remove json_patch json_type json_valid json_each json_tree "
        "json_array_length jsonb_array_length jsonb_build_object json_build_object jsonb_agg json_agg "
        "jsonb_set jsonb_array_elements jsonb_array_elements_text json_array_elements jsonb_each "
        "jsonb_object_keys to_json to_jsonb row_to_json total iif ifnull locate elt field find_in_set "
        "substring_index strcmp inet_aton inet_ntoa conv crc32 sha1 sha2 md5 to_tsvector to_tsquery "
        "plainto_tsquery ts_rank similarity word_similarity array_length array_position cardinality "
        "unnest regexp_match regexp_matches regexp_split_to_array btrim width_bucket bit_length "
        "octet_length char_length character_length ascii space insert maketime makedate period_add "
        "bm25 highlight snippet width degrees radians pi sind cosd tand cbrt gcd lcm "
        # PostgreSQL
        "abbrev acosd acosh area array_agg array_append array_cat array_dims array_fill array_lower "
        "array_ndims array_positions array_prepend array_remove array_replace array_to_json array_to_string "
        "array_to_tsvector array_upper asind asinh atan2d atand atanh bit_and bit_count bit_or bit_xor "
        "bool_and bool_or broadcast center corr cotd covar_pop covar_samp cume_dist date_bin date_part "
        "date_trunc daterange decode dense_rank diagonal diameter div encode every factorial family "
        "first_value generate_series generate_subscripts get_bit get_byte height host hostmask initcap "
        "int4range int8range is_normalized isclosed isempty isfinite ishorizontal isopen isparallel isperp "
        "isvertical json_array_elements_text json_build_array json_each_text json_extract_path "
        "json_extract_path_text json_object_agg json_object_keys json_populate_record json_strip_nulls "
        "json_to_record json_to_recordset json_typeof jsonb_build_array jsonb_each_text jsonb_extract_path "
        "jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_path_exists "
        "jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first "
        "jsonb_populate_record jsonb_pretty jsonb_set_lax jsonb_strip_nulls jsonb_to_record "
        "jsonb_to_recordset jsonb_typeof justify_days justify_hours justify_interval lag last_value lead "
        "lower_inc lower_inf make_date make_interval make_time make_timestamp masklen merge min_scale "
        "multirange netmask network normalize npoints nth_value ntile num_nonnulls num_nulls numnode "
        "numrange overlay parse_ident pclose percent_rank percentile_cont percentile_disc phraseto_tsquery "
        "popen quote_ident quote_literal quote_nullable querytree radius range_agg range_intersect_agg "
        "range_merge rank regexp_count regexp_instr regexp_like regexp_replace regexp_split_to_table "
        "regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy "
        "regr_syy row_number scale set_bit set_byte set_masklen setweight sha224 sha256 sha384 sha512 "
        "slope split_part string_agg string_to_array string_to_table strip strpos to_ascii to_char to_date "
        "to_hex to_number to_timestamp translate trim_array trim_scale trunc ts_delete ts_filter ts_headline "
        "ts_rank_cd tsrange tstzrange tsvector_to_array unistr upper_inc upper_inf var_pop var_samp "
        "websearch_to_tsquery xmlagg xmlcomment xpath xpath_exists strict_word_similarity show_trgm "
        # MySQL and SQLite
        "bin oct ord aes_encrypt compress uncompress export_set make_set mid soundex timediff to_days "
        "from_days sec_to_time time_to_sec addtime subtime weight_string json_contains json_contains_path "
        "json_keys json_merge_patch json_merge_preserve json_overlaps json_search json_unquote json_value "
        "json_depth json_length json_pretty json_quote json_arrayagg json_objectagg json_group_array "
        "json_group_object jsonb jsonb_extract jsonb_group_array json_error_position zeroblob unhex "
        "unlikely likely octet_length concat_ws substring ltrim rtrim trim upper lower length"
    ).split()
)

_TIMES = frozenset(("date", "datetime", "time", "strftime", "julianday", "tstodate", "timetostr"))


def why_not(function: Any, pure: frozenset[str] = frozenset()) -> str:
    """Why a result with this call in it must not be cached; empty if the call is known to be pure.

    ``pure`` are the names, in lower case, of functions of the user's own that are.
    """
    reason, asks_time = _why_not_class(function.__class__)
    if reason:
        return reason
    if asks_time:
        text = function.sql().lower()
        return "it asks for the current time" if "'now'" in text or "()" in text else ""
    if asks_time is None:
        name = _name(function)
        if name in pure:
            return ""
        if name.replace("_", "") in _VOLATILE:
            return f"{name}() differs from call to call"
        return "" if name in _PURE else f"{name}() is not known to depend on its arguments only"
    return ""


def is_pure(function: Any) -> bool:
    """Whether a call depends on its arguments alone, as far as is known."""
    return not why_not(function)


def may_write(function: Any, dialect: str, pure: frozenset[str] = frozenset()) -> bool:
    """Whether a call may change a table: a function of the user's own, where the database has such.

    SQLite has none: what an application registers there is Python, whose queries are seen.
    """
    if dialect == "sqlite" or _why_not_class(function.__class__)[1] is not None:
        return False
    name = _name(function)
    if name in pure:
        return False
    bare = name.replace("_", "")
    if bare == "setconfig" and function.expressions:
        return str(function.expressions[0].this).lower() not in HARMLESS_SETTINGS
    return bare in _VOLATILE_WRITERS or (name not in _PURE and bare not in _VOLATILE)


@functools.lru_cache(maxsize=1024)
def in_question(kinds: tuple[type, ...]) -> tuple[type, ...]:
    """Those of a statement's classes whose calls may differ from call to call, or write."""
    return tuple(kind for kind in functions_among(kinds) if _why_not_class(kind) != ("", False))


def _name(function: Any) -> str:
    name = str(function.name).lower()
    parent = function.parent
    qualifier = parent.this.name.lower() if parent.__class__.__name__ == "Dot" else ""
    # A function of a schema of the user's own is not the database's, whatever its name.
    return f"{qualifier}.{name}" if qualifier not in ("", "pg_catalog") else name


@functools.cache
def _why_not_class(kind: Any) -> tuple[str, bool | None]:
    """(why no call of it may be cached, whether its arguments may ask for the time; None: see its name)"""
    from sqlglot import exp

    if issubclass(kind, exp.Anonymous):
        return "", None
    names = [kind.__name__.lower(), *(name.lower().replace("_", "") for name in kind.sql_names())]
    if any(name in _VOLATILE for name in names):
        return f"{kind.sql_names()[0].lower()}() differs from call to call", False
    return "", names[0] in _TIMES
