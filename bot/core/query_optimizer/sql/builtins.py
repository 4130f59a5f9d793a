"""The built-in functions of each database: what is known about a name without a catalog (pure).

Lists of real servers: PostgreSQL 15's pg_proc without what implements types, operators and aggregates;
what MySQL 8 documents and MariaDB 10.11 has as well; SQLite 3.40's pragma_function_list. A name that is in
no list of its dialect may be a function of the user's own, which may read and write any table.
"""

from __future__ import annotations

from typing import NamedTuple


class Builtin(NamedTuple):
    """The functions of PostgreSQL with one name; its users may add others with other arguments."""

    counts: frozenset[int]
    """How many arguments it may have."""
    at_least: int
    """It takes this many and more; -1 for one with a fixed number."""
    within_group: bool
    """It also comes as an aggregate WITHIN GROUP, with any arguments."""
    first: str
    """Categories (pg_type.typcategory) of the first argument; P for any type at all."""


# name:counts:categories; "+" after the least count of a variadic one, "w" for WITHIN GROUP. All of them
# are IMMUTABLE, or STABLE and depend on the session's settings alone.
_POSTGRES = """
    abbrev:1:I abs:1:N acos:1:N acosd:1:N acosh:1:N age:2:D area:1:G array_agg:1:AP array_append:2:A
    array_cat:2:A array_dims:1:A array_fill:23:P array_length:2:A array_lower:2:A array_ndims:1:A
    array_position:23:A array_positions:2:A array_prepend:2:P array_remove:2:A array_replace:3:A
    array_to_json:12:A array_to_string:23:A array_to_tsvector:1:A array_upper:2:A arraycontains:2:A
    arrayoverlap:2:A ascii:1:S asin:1:N asind:1:N asinh:1:N atan:1:N atan2:2:N atan2d:2:N atand:1:N
    atanh:1:N avg:1:NT bit_and:1:NV bit_count:1:UV bit_length:1:SUV bit_or:1:NV bit_xor:1:NV bool:1:NU
    bool_and:1:B bool_or:1:B box:12:G bpchar:13:SZ broadcast:1:I btrim:12:SU cardinality:1:A cbrt:1:N
    ceil:1:N ceiling:1:N center:1:G char_length:1:S character_length:1:S chr:1:N circle:12:G concat:1+:P
    concat_ws:2+:S convert_from:2:U convert_to:2:S corr:2:N cos:1:N cosd:1:N cosh:1:N cot:1:N cotd:1:N
    count:01:P covar_pop:2:N covar_samp:2:N cume_dist:0w date:1:D date_bin:3:T date_part:2:S date_trunc:23:S
    datemultirange:01+:AR daterange:23:D decode:2:S degrees:1:N dense_rank:0w diagonal:1:G diameter:1:G
    div:2:N encode:2:U enum_first:1:R enum_last:1:R enum_range:12:R every:1:B exp:1:N extract:2:S
    factorial:1:N family:1:I first_value:1:P float4:1:NU float8:1:NU floor:1:N format:12+:S gcd:2:N
    generate_series:23:DN generate_subscripts:23:A get_bit:2:UV get_byte:2:U height:1:G host:1:I
    hostmask:1:I inet_merge:2:I inet_same_family:2:I initcap:1:S int2:1:NU int4:1:BNUVZ int4range:23:N
    int8:1:NUV int8range:23:N interval:12:DT is_normalized:12:S isclosed:1:G isempty:1:R isfinite:1:DT
    ishorizontal:12:G isopen:1:G isparallel:2:G isperp:2:G isvertical:12:G json_agg:1:P
    json_array_elements:1:U json_array_elements_text:1:U json_array_length:1:U json_build_array:01+:P
    json_build_object:01+:P json_each:1:U json_each_text:1:U json_extract_path:2+:U
    json_extract_path_text:2+:U json_object:12:A json_object_agg:2:P json_object_field_text:2:U
    json_object_keys:1:U json_populate_record:23:P json_populate_recordset:23:P json_strip_nulls:1:U
    json_to_record:1:U json_to_recordset:1:U json_to_tsvector:23:NU json_typeof:1:U jsonb_agg:1:P
    jsonb_array_elements:1:U jsonb_array_elements_text:1:U jsonb_array_length:1:U jsonb_build_array:01+:P
    jsonb_build_object:01+:P jsonb_concat:2:U jsonb_contains:2:U jsonb_delete:2+:U jsonb_delete_path:2:U
    jsonb_each:1:U jsonb_each_text:1:U jsonb_exists:2:U jsonb_exists_all:2:U jsonb_exists_any:2:U
    jsonb_extract_path:2+:U jsonb_extract_path_text:2+:U jsonb_insert:34:U jsonb_object:12:A
    jsonb_object_agg:2:P jsonb_object_field_text:2:U jsonb_object_keys:1:U jsonb_path_exists:234:U
    jsonb_path_exists_tz:234:U jsonb_path_match:234:U jsonb_path_match_tz:234:U jsonb_path_query:234:U
    jsonb_path_query_array:234:U jsonb_path_query_array_tz:234:U jsonb_path_query_first:234:U
    jsonb_path_query_first_tz:234:U jsonb_path_query_tz:234:U jsonb_populate_record:2:P
    jsonb_populate_recordset:2:P jsonb_pretty:1:U jsonb_set:34:U jsonb_set_lax:345:U jsonb_strip_nulls:1:U
    jsonb_to_record:1:U jsonb_to_recordset:1:U jsonb_to_tsvector:23:NU jsonb_typeof:1:U justify_days:1:T
    justify_hours:1:T justify_interval:1:T lag:123:P last_value:1:P lcm:2:N lead:123:P left:2:S
    length:12:GSUV like:2:SU line:2:G ln:1:N log:12:N log10:1:N lower:1:RS lower_inc:1:R lower_inf:1:R
    lpad:23:S lseg:12:G ltrim:12:SU macaddr8_set7bit:1:U make_date:3:N make_interval:01234567:N
    make_time:3:N make_timestamp:6:N make_timestamptz:67:N masklen:1:I max:1:ADINRSTU md5:1:SU
    min:1:ADINRSTU min_scale:1:N mod:2:N mode:w multirange:1:R netmask:1:I network:1:I normalize:12:S
    npoints:1:G nth_value:2:P ntile:1:N num_nonnulls:1+:P num_nulls:1+:P numeric:12:NU nummultirange:01+:AR
    numnode:1:U numrange:23:N octet_length:1:SUV overlaps:4:D overlay:34:SUV parse_ident:12:S
    percent_rank:0w percentile_cont:w percentile_disc:w pg_collation_for:1:P pg_column_size:1:P
    pg_size_bytes:1:S pg_size_pretty:1:N pg_typeof:1:P phraseto_tsquery:12:NS pi:0 plainto_tsquery:12:NS
    point:12:GN polygon:12:GN position:2:SUV pow:2:N power:2:N querytree:1:U quote_ident:1:S
    quote_literal:1:PS quote_nullable:1:PS radians:1:N radius:1:G range_agg:1:R range_contains_elem:2:R
    range_intersect_agg:1:R range_merge:12:R rank:0w regexp_count:234:S regexp_instr:234567:S
    regexp_like:23:S regexp_match:23:S regexp_matches:23:S regexp_replace:3456:S regexp_split_to_array:23:S
    regexp_split_to_table:23:S regexp_substr:23456:S regr_avgx:2:N regr_avgy:2:N regr_count:2:N
    regr_intercept:2:N regr_r2:2:N regr_slope:2:N regr_sxx:2:N regr_sxy:2:N regr_syy:2:N repeat:2:S
    replace:3:S reverse:1:S right:2:S round:12:N row_number:0 row_to_json:12:P rpad:23:S rtrim:12:SU
    scale:1:N set_bit:3:UV set_byte:3:U set_masklen:2:I setweight:23:U sha224:1:U sha256:1:U sha384:1:U
    sha512:1:U sign:1:N similar_to_escape:12:S sin:1:N sind:1:N sinh:1:N slope:2:G split_part:3:S sqrt:1:N
    starts_with:2:S stddev:1:N stddev_pop:1:N stddev_samp:1:N string_agg:2:SU string_to_array:23:S
    string_to_table:23:S strip:1:U strpos:2:S substr:23:SU substring:23:SUV sum:1:NT tan:1:N tand:1:N
    tanh:1:N text:1:BISUZ time:12:DT timestamp:12:D timestamptz:12:D timetz:12:D timezone:2:ST to_ascii:12:S
    to_char:2:DNT to_date:2:S to_hex:1:N to_json:1:P to_jsonb:1:P to_number:2:S to_timestamp:12:NS
    to_tsquery:12:NS to_tsvector:12:NSU translate:3:S trim_array:2:A trim_scale:1:N trunc:12:NU
    ts_delete:2:U ts_filter:2:U ts_headline:234:NSU ts_rank:234:AU ts_rank_cd:234:AU tsmultirange:01+:AR
    tsquery_phrase:23:U tsrange:23:D tstzmultirange:01+:AR tstzrange:23:D tsvector_to_array:1:U unistr:1:S
    unnest:1:ARU upper:1:RS upper_inc:1:R upper_inf:1:R var_pop:1:N var_samp:1:N varchar:13:S variance:1:N
    websearch_to_tsquery:12:NS width:1:G width_bucket:24:NP xml_is_well_formed_content:1:S
    xml_is_well_formed_document:1:S xmlagg:1:U xmlcomment:1:S xmlexists:2:S xmlvalidate:2:U xpath:23:S
    xpath_exists:23:S
"""


def _read(words: str) -> dict[str, Builtin]:
    found = {}
    for word in words.split():
        name, counts, *categories = word.split(":")
        exact = frozenset(int(digit) for digit in counts if digit.isdigit())
        least = min(exact) if "+" in counts else -1
        found[name] = Builtin(exact, least, "w" in counts, "".join(categories))
    return found


POSTGRES = _read(_POSTGRES)

POSTGRES_READS = frozenset(
    """
        clock_timestamp col_description convert current_database current_query current_schema
        current_schemas current_setting current_user currval database_to_xmlschema format_type
        gen_random_uuid get_current_ts_config getdatabaseencoding getpgusername in_range inet_client_addr
        inet_client_port inet_server_addr inet_server_port lastval lo_close lo_get lo_lseek lo_lseek64
        lo_tell lo_tell64 loread money now obj_description random regclass row_security_active
        schema_to_xmlschema session_user setseed shobj_description statement_timestamp table_to_xmlschema
        timeofday to_regclass to_regcollation to_regnamespace to_regoper to_regoperator to_regproc
        to_regprocedure to_regrole to_regtype transaction_timestamp ts_debug ts_match_tq ts_match_tt
        ts_parse ts_token_type version xml xml_is_well_formed any_value array_reverse array_sample
        array_shuffle array_sort bytea casefold crc32 crc32c date_add date_subtract erf erfc gamma
        json_array json_arrayagg json_exists json_objectagg json_query json_scalar json_serialize json_value
        lgamma pg_get_acl random_normal system_user to_bin to_oct unicode_assigned unicode_version
        uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 xmltext similarity word_similarity
        strict_word_similarity show_trgm unaccent digest hmac crypt gen_salt gen_random_bytes
        uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 uuid_nil
        levenshtein metaphone dmetaphone difference akeys avals skeys svals hstore earth_distance
        ll_to_earth earth_box cosine_distance l2_distance inner_product vector_dims st_distance st_dwithin
        st_makepoint st_setsrid st_x st_y st_astext st_asgeojson st_intersects st_contains st_within
        st_transform st_geomfromtext
    """.split()
)
"""Functions that change no table and are not cached: those that differ from call to call or read the catalog,
those added after PostgreSQL 15, and those of the usual extensions, of which the user may have other versions.
"""

POSTGRES_GRAMMAR = frozenset(
    """
        coalesce nullif greatest least grouping row cast trim substring overlay position extract normalize
        exists any some all array unnest xmlelement xmlforest xmlconcat xmlparse xmlpi xmlroot xmlserialize
        string_agg min max array_agg json_object
    """.split()
)
"""Functions of the grammar, or that accept any type: no other function can be meant."""

POSTGRES_READ_PREFIXES = ("pg_", "txid_", "has_")
_POSTGRES_WRITERS = (
    "pg_reload_conf pg_extension_config_dump pg_import_system_collations pg_promote pg_file_write"
)
POSTGRES_WRITERS = frozenset(_POSTGRES_WRITERS.split())

# Here a name has one meaning, whatever its arguments: a stored function of that name needs its qualifier.
MYSQL = frozenset(
    """
        abs acos adddate addtime aes_decrypt aes_encrypt ascii asin atan atan2 avg bin bit_and bit_count
        bit_length bit_or bit_xor cast ceil ceiling char char_length character_length charset coalesce
        coercibility collation compress concat concat_ws conv convert convert_tz cos cot count crc32
        cume_dist date date_add date_format date_sub datediff day dayname dayofmonth dayofweek dayofyear
        default degrees dense_rank elt exp export_set extract extractvalue field find_in_set first_value
        floor format from_base64 from_days from_unixtime geomfromtext get_format greatest group_concat hex
        hour if ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa insert instr interval is_ipv4
        is_ipv4_compat is_ipv4_mapped is_ipv6 isnull json_array json_array_append json_array_insert
        json_arrayagg json_contains json_contains_path json_depth json_extract json_insert json_keys
        json_length json_merge json_merge_patch json_merge_preserve json_object json_objectagg json_overlaps
        json_quote json_remove json_replace json_search json_set json_table json_type json_unquote
        json_valid json_value lag last_day lcase lead least left length like ln locate log log10 log2 lower
        lpad ltrim make_set makedate maketime max md5 microsecond mid min minute mod month monthname
        name_const nth_value ntile nullif oct octet_length ord percent_rank period_add period_diff pi
        position pow power quarter quote radians rank regexp_instr regexp_replace regexp_substr repeat
        replace reverse right round row row_number rpad rtrim sec_to_time second sha sha1 sha2 sign sin
        soundex space sqrt std stddev stddev_pop stddev_samp str_to_date strcmp subdate substr substring
        substring_index subtime sum tan time time_format time_to_sec timediff timestamp timestampadd
        timestampdiff to_base64 to_days to_seconds trim truncate ucase uncompress uncompressed_length unhex
        updatexml upper values var_pop var_samp variance week weekday weekofyear weight_string year yearweek
        st_area st_asbinary st_astext st_aswkb st_aswkt st_buffer st_centroid st_contains st_crosses
        st_difference st_dimension st_disjoint st_distance st_distance_sphere st_endpoint st_envelope
        st_equals st_exteriorring st_geomcollfromtext st_geometryn st_geometrytype st_geomfromgeojson
        st_geomfromtext st_geomfromwkb st_interiorringn st_intersection st_intersects st_isclosed st_isempty
        st_issimple st_length st_linefromtext st_numgeometries st_numinteriorrings st_numpoints st_overlaps
        st_pointfromtext st_pointn st_polyfromtext st_srid st_startpoint st_symdifference st_touches
        st_union st_within st_x st_y mbrcontains mbrdisjoint mbrequal mbrintersects mbroverlaps mbrtouches
        mbrwithin
    """.split()
)

MYSQL_READS = frozenset(
    """
        any_value benchmark bin_to_uuid connection_id curdate current_date current_role current_time
        current_timestamp current_user curtime database found_rows get_lock get_lock grouping is_free_lock
        is_used_lock is_uuid is_visible json_compact json_detailed json_equals json_exists json_loose
        json_normalize json_pretty json_query json_schema_valid json_storage_free json_storage_size
        last_insert_id load_file localtime localtimestamp master_pos_wait match median now nvl nvl2
        old_password password percentile_cont percentile_disc ps_current_thread_id ps_thread_id rand random
        random_bytes regexp_like release_all_locks release_lock roles_graphml row_count rownum schema
        session_user sformat sleep st_latitude st_longitude statement_digest sys_guid sysdate system_user
        to_char trim_oracle unix_timestamp user utc_date utc_time utc_timestamp uuid uuid_short uuid_to_bin
        vec_distance vec_fromtext version lengthb chr trunc add_months decode encode encrypt des_encrypt
        des_decrypt kdf natural_sort_key wait_for_executed_gtid_set format_bytes format_pico_time
    """.split()
)
"""What changes no table and is not cached: what differs from call to call, and what only MySQL or only
MariaDB has."""

SQLITE = frozenset(
    """
        abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling char coalesce concat concat_ws cos
        cosh count cume_dist date datetime degrees dense_rank exp first_value floor format glob group_concat
        hex highlight if ifnull iif instr json json_array json_array_insert json_array_length json_each
        json_error_position json_extract json_group_array json_group_object json_insert json_object
        json_patch json_pretty json_quote json_remove json_replace json_set json_tree json_type json_valid
        jsonb jsonb_array jsonb_array_insert jsonb_each jsonb_extract jsonb_group_array jsonb_group_object
        jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set jsonb_tree julianday lag
        last_value lead length like likelihood likely ln log log10 log2 lower ltrim matchinfo max median min
        mod nth_value ntile nullif octet_length offsets percent_rank percentile percentile_cont
        percentile_disc pi pow power printf quote radians rank replace round row_number rtrim sign sin sinh
        snippet soundex sqrt strftime string_agg substr substring subtype sum tan tanh time timediff total
        trim trunc typeof unhex unicode unistr unistr_quote unixepoch unlikely upper zeroblob
        generate_series cast case extract
    """.split()
)

UNMISTAKABLE = frozenset(
    """
        ifnull iif strftime julianday unixepoch datetime group_concat instr printf typeof hex json_extract
        json_group_array json_group_object json_array json_array_length json_object json_insert json_set
        json_replace json_remove json_patch json_quote json_type json_valid json_each json_tree json_unquote
        date_format str_to_date datediff timestampdiff find_in_set date_trunc to_char array_agg jsonb_agg
        jsonb_build_object
    """.split()
)
"""Without a dialect: names that only one or two of the databases have, and that nobody gives to anything but
the same there. A function of the user's own under one of them is known once its CREATE FUNCTION was seen."""

SQLITE_READS = frozenset(
    (
        "last_insert_rowid changes total_changes random randomblob sqlite_version sqlite_source_id "
        "sqlite_offset sqlite_compileoption_get sqlite_compileoption_used"
    ).split()
)
"""Functions that are not cached, since they differ from call to call."""
