"""Which rows of the predictions are the latest: each image once, in the words of DuckDB.

An image is its bytes. The newest run that scored them counts, unless each file that had them has
been found with other bytes since.
"""

# `id` is of a row, larger for a newer run. Contents and files are told apart by two hashes, the
# second one of the text with a character before it. An image without a digest counts as its file.
_KEYS = """
    hash({content}) AS c1, hash('.' || {content}) AS c2,
    hash(path, base) AS f1, hash('.' || path, base) AS f2
"""
FILL_LATEST = [
    "CREATE OR REPLACE TABLE _scored AS SELECT age << 40 | row AS id, "
    + _KEYS.format(content="coalesce(sha256, base || path)")
    + " FROM _predictions AS rows JOIN _roots AS roots ON (age = run AND rows.root = number)",
    # What a run knew of a file without scoring it: after all that it scored itself.
    "CREATE OR REPLACE TABLE _events AS SELECT age << 40 | (1::BIGINT << 39) AS id, "
    + _KEYS.format(content="sha256")
    + " FROM _told",
    "CREATE OR REPLACE VIEW _seen AS FROM _scored UNION ALL FROM _events",
    "CREATE OR REPLACE TABLE _changed AS "
    "SELECT f1 FROM _seen GROUP BY f1 HAVING min(c1) <> max(c1)",
    "CREATE OR REPLACE TABLE _of_changed AS FROM _seen WHERE f1 IN (FROM _changed)",
    "CREATE OR REPLACE TABLE _newest AS SELECT arg_max(c1, id) AS c1, arg_max(c2, id) AS c2 "
    "FROM _of_changed GROUP BY f1, f2",
    "CREATE OR REPLACE TABLE _replaced AS "
    "SELECT DISTINCT c1, c2 FROM _of_changed ANTI JOIN _newest USING (c1, c2)",
    # A content that another file still has, which never changed, is not replaced.
    "CREATE OR REPLACE TABLE _gone AS FROM _replaced ANTI JOIN "
    "(SELECT c1, c2 FROM _seen SEMI JOIN _replaced USING (c1, c2) "
    "WHERE f1 NOT IN (FROM _changed)) USING (c1, c2)",
    "INSERT INTO _latest SELECT max(id) FROM _scored ANTI JOIN _gone USING (c1, c2) "
    "GROUP BY c1, c2",
    "DROP VIEW _seen",
    *(
        f"DROP TABLE {name}"
        for name in (
            "_scored",
            "_events",
            "_changed",
            "_of_changed",
            "_newest",
            "_replaced",
            "_gone",
        )
    ),
]
