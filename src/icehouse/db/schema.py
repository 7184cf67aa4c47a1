"""The tables, in SQLAlchemy's terms; `migrations/` brings a database to this state.

Times are whole seconds since the epoch, UTC. Hashes are raw bytes, except where a narinfo answer needs their text
at once. Rows of immutable things (chunk, nar, recipe) are small on purpose: there are millions of them.
"""

from sqlalchemy import (
    BLOB,
    DDL,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

from icehouse.rules.chunks import CHUNK_NAME_BYTES

metadata = MetaData()

IS_DAMAGED = "hidden_because >= 'damaged: ' AND hidden_because < 'damaged:!'"
"""Whether damage hides a path, as an index knows it: it opens with `rules.verification.DAMAGED`."""

CHUNK_NAME = f"substr(identity, 1, {CHUNK_NAME_BYTES})"
"""What a chunk is found by, as an index knows it. With whole identities that index was a quarter of the database."""

domain = Table(
    "domain",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, unique=True, doc="the name of a shared domain; null for a private cache's own"),
    Column("created_at", Integer, nullable=False),
    sqlite_autoincrement=True,  # numbers of domains are never reused: their folder of packs may outlive the row
)
"""Domain 1, named `public`, holds all public caches and is made by the first migration."""

cache = Table(
    "cache",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("domain_id", Integer, ForeignKey("domain.id"), nullable=False, index=True),
    Column("is_public", Integer, nullable=False),
    Column("store_dir", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("want_mass_query", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("keep_unused_seconds", Integer, doc="hide what was not used for so long; null: use does not matter"),
    Column("keep_pushed_seconds", Integer, doc="hide what was pushed longer ago; null: age does not matter"),
    Column("budget_bytes", Integer, doc="hide what was used least recently while the size is larger; null: no budget"),
    Column("limit_bytes", Integer, doc="refuse pushes while the size is larger; null: no limit"),
    Column(
        "trash_seconds", Integer, nullable=False, server_default="604800", doc="how long hidden paths can come back"
    ),
    Column("stored_bytes", Integer, nullable=False, server_default="0", doc="of the distinct chunks of its paths"),
    Column("generation", Integer, nullable=False, server_default="0", doc="counts what made paths visible"),
    Column("staging_of", Integer, doc="the cache that what is looked at here is promoted to; null: it is no staging"),
    Column(
        "required_keys",
        Text,
        nullable=False,
        server_default="",
        doc="`name:base64`, joined by spaces: what is pushed carries a signature by one of them. Empty: none is needed",
    ),
    sqlite_autoincrement=True,
)

signing_key = Table(
    "signing_key",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("public_key", Text, nullable=False, doc="`name:base64`, as in trusted-public-keys"),
    Column(
        "sealed_secret_key",
        BLOB,
        nullable=False,
        doc="the secret key, or where it is kept, encrypted with the server's secret",
    ),
    Column("created_at", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="active", doc="`staged`, `active`, `retired` or `stripped`"),
)

signing_pass = Table(
    "signing_pass",
    metadata,
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, nullable=False, doc="one more each time that a pass is asked for"),
    Column("after", Integer, nullable=False, doc="the last path that was looked at"),
    Column("looked_at", Integer, nullable=False, doc="how many paths"),
    Column("changed", Integer, nullable=False, doc="how many of them got other signatures"),
    Column("began_at", Integer, nullable=False),
    Column("ended_at", Integer, doc="null: it is to go on"),
    Column("error", Text, doc="why it could not go on the last time"),
)
"""The last pass over the signatures of each cache."""

upstream = Table(
    "upstream",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("url", Text, nullable=False),
    Column("public_keys", Text, nullable=False, doc="`name:base64`, joined by spaces"),
    UniqueConstraint("cache_id", "url"),
)

token = Table(
    "token",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token_hash", BLOB, nullable=False, unique=True, doc="SHA-256 of the token; the token itself is not kept"),
    Column("description", Text, nullable=False),
    Column("permissions", Text, nullable=False, doc="names joined by spaces"),
    Column("cache_pattern", Text, nullable=False, doc="glob on cache names"),
    Column("created_at", Integer, nullable=False),
    Column("created_by", Integer, ForeignKey("token.id"), index=True, doc="null: made on the server's machine"),
    Column("expires_at", Integer),
    Column("revoked_at", Integer),
    Column("last_used_at", Integer),
    Column("job_id", Integer, index=True, doc="whose identity it was exchanged for; null: somebody made it"),
    Column("last_used_from", Text, doc="the client's address; null: not known"),
    Column("person_id", Integer, index=True, doc="whose it is, if a provider said who"),
    Column("is_login", Integer, nullable=False, server_default="0", doc="acts for a session; nobody has its secret"),
    Column("other_scopes", Text, nullable=False, server_default="[]", doc="JSON: as `permissions`, `cache_pattern`"),
    sqlite_autoincrement=True,
)

person = Table(
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("created_at", Integer, nullable=False),
    Column("last_login_at", Integer, nullable=False),
    UniqueConstraint("issuer", "subject"),
    sqlite_autoincrement=True,
)
"""Who logged in by a provider."""

session = Table(
    "session",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("secret_hash", BLOB, nullable=False, unique=True, doc="SHA-256 of what the browser's cookie holds"),
    Column("token_id", Integer, ForeignKey("token.id"), nullable=False, index=True, doc="acts for who is logged in"),
    Column("created_at", Integer, nullable=False),
    Column("last_used_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    sqlite_autoincrement=True,
)
"""Browsers in which somebody is logged into the web page. The row goes when they log out."""

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("repository", Text),
    Column("ref", Text),
    Column("workflow", Text),
    Column("commit", Text),
    Column("run", Text),
    Column("run_url", Text),
    Column("created_at", Integer, nullable=False),
)
"""Jobs of a CI that got tokens, each by what its issuer said of it."""

trust_rule = Table(
    "trust_rule",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("issuer", Text, nullable=False, index=True),
    Column("audience", Text, nullable=False),
    Column("claims", Text, nullable=False, doc="JSON: for each claim a list of globs"),
    Column("permissions", Text, nullable=False, doc="names joined by spaces"),
    Column("token_seconds", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("created_by", Integer, ForeignKey("token.id")),
    sqlite_autoincrement=True,
)
"""Whose jobs may have tokens of a cache."""

revocation = Table(
    "revocation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", Text, nullable=False, doc="JSON: a token's number, or values of jobs"),
    Column("since", Integer, nullable=False),
    Column("until", Integer, doc="null: what is published from now on is meant too"),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), doc="null: of all caches"),
    Column("created_at", Integer, nullable=False),
    Column("created_by", Integer, ForeignKey("token.id")),
    Column("undone_at", Integer, doc="null: in force"),
    sqlite_autoincrement=True,
)
"""Whose publications are held back."""

used_id_token = Table(
    "used_id_token",
    metadata,
    Column("use_key", BLOB, primary_key=True, doc="as in `rules.id_tokens`"),
    Column("expires_at", Integer, nullable=False, index=True, doc="when it is refused by itself"),
    Column("job_id", Integer, ForeignKey("job.id"), nullable=False, index=True),
    Column("token_hash", BLOB, nullable=False, doc="of the last token that was given for it"),
)
"""Identity tokens that were exchanged. A second use needs the token that the first one gave."""

pack = Table(
    "pack",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("domain_id", Integer, ForeignKey("domain.id"), nullable=False),
    Column("name", BLOB, nullable=False, doc="BLAKE3 of the object's bytes"),
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column(
        "condemned_at", Integer, doc="null: in use. Else its chunks are answered as missing, and it is deleted soon"
    ),
    UniqueConstraint("domain_id", "name"),
)

chunk = Table(
    "chunk",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("domain_id", Integer, ForeignKey("domain.id"), nullable=False),
    Column("identity", BLOB, nullable=False),
    Column("pack_id", Integer, ForeignKey("pack.id"), nullable=False, index=True),
    Column("pack_offset", Integer, nullable=False),
    Column("stored_bytes", Integer, nullable=False),
    Column("raw_bytes", Integer, nullable=False),
    Column("places", BLOB, doc="positions and patch offsets, as in `rules.packs`; null: the chunk has no store hash"),
    Column("quarantined_at", Integer, doc="null: sound. Else answered as missing, until a push brings the chunk again"),
    Index("chunk_name", "domain_id", text(CHUNK_NAME), unique=True),
    Index(
        "chunk_quarantined",
        "quarantined_at",
        sqlite_where=text("quarantined_at IS NOT NULL"),
        postgresql_where=text("quarantined_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,  # a recipe names chunks by number, so a number never gets a second meaning
)

nar = Table(
    "nar",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("domain_id", Integer, ForeignKey("domain.id"), nullable=False),
    Column("nar_hash", BLOB, nullable=False, doc="SHA-256"),
    Column("nar_size", Integer, nullable=False),
    Column("file_hash", BLOB, nullable=False, doc="SHA-256 of the file as it is served"),
    Column("file_size", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("domain_id", "nar_hash"),
)

recipe = Table(
    "recipe",
    metadata,
    Column("nar_id", Integer, ForeignKey("nar.id", ondelete="CASCADE"), primary_key=True),
    Column("body", BLOB, nullable=False, doc="as in `rules.recipes`"),
)

path = Table(
    "path",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id"), nullable=False),
    Column("hash_part", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("nar_id", Integer, ForeignKey("nar.id"), nullable=False),
    Column("nar_hash", Text, nullable=False, doc="52 letters of Nix32, as the narinfo and the NAR's URL need it"),
    Column("nar_size", Integer, nullable=False),
    Column("file_hash", Text, nullable=False, doc="52 letters of Nix32"),
    Column("file_size", Integer, nullable=False),
    Column("references", Text, nullable=False, doc="base names in order, joined by spaces; empty: none"),
    Column("deriver", Text),
    Column("system", Text),
    Column("ca", Text),
    Column("signatures", Text, nullable=False, doc="`name:base64`, joined by spaces; ours first"),
    Column("created_at", Integer, nullable=False),
    Column("hidden_at", Integer, doc="null: visible"),
    Column("published_by", Integer, ForeignKey("token.id")),
    Column("hidden_because", Text, doc="the rule that hid it, for people; null: visible"),
    Column("generation", Integer, nullable=False, server_default="0", doc="the cache's when it became visible"),
    Column("published_from", Text, doc="the address; null: not known"),
    Column("revocation_id", Integer, doc="the revocation that holds it back; null: none does"),
    UniqueConstraint("cache_id", "hash_part"),
    Index("path_by_nar", "nar_id", "cache_id"),
    Index("path_by_generation", "cache_id", "generation"),
    Index("path_by_publisher", "published_by", "cache_id"),
    Index("path_damaged", "cache_id", "id", sqlite_where=text(IS_DAMAGED), postgresql_where=text(IS_DAMAGED)),
    Index(
        "path_in_trash",
        "cache_id",
        "hidden_at",
        "id",
        "name",
        sqlite_where=text("hidden_at IS NOT NULL"),
        postgresql_where=text("hidden_at IS NOT NULL"),
    ),
)

_NAME_ROW = """
    {row}.id, '-' || {row}.name || '-', char(19968 + (({row}.cache_id >> 24) & 4095),
    19968 + (({row}.cache_id >> 12) & 4095), 19968 + ({row}.cache_id & 4095))
"""
# A list of words without letters that JSON quotes. Twelve of a hash part's letters are 60 bits: who finds by them
# looks at the row too.
_LINK_ROW = """
    {row}.id, 'c' || {row}.cache_id || coalesce((SELECT group_concat(' ' || substr(value, 1, 12), '') FROM
    json_each('["' || replace({row}."references", ' ', '","') || '"]')), '')
"""
_SEARCHED = {
    "path_name": ("name, cache", "trigram", _NAME_ROW, "name"),
    "path_link": ("words", "ascii", _LINK_ROW, '"references"'),
}
"""Indexes of SQLite's FTS5, written by triggers alone, whose rowid is the path's id.

`path_name` has each three letters of a name between dashes, and the cache's number as three letters that no name has.
`path_link` has the beginnings of the hash parts that a path refers to, and `c` with the cache's number.
"""

for _table, (_columns, _tokenizer, _row, _column) in _SEARCHED.items():
    _put = f"INSERT INTO {_table} (rowid, {_columns}) SELECT {_row.format(row='NEW')}"
    _take = f"INSERT INTO {_table} ({_table}, rowid, {_columns}) SELECT 'delete', {_row.format(row='OLD')}"
    _options = f"content='', detail=none, columnsize=0, tokenize='{_tokenizer}'"
    _update = f"AFTER UPDATE OF {_column} ON path WHEN OLD.{_column} <> NEW.{_column}"
    for _statement in (
        f"CREATE VIRTUAL TABLE {_table} USING fts5({_columns}, {_options})",
        f"CREATE TRIGGER {_table}_insert AFTER INSERT ON path BEGIN {_put}; END",
        f"CREATE TRIGGER {_table}_update {_update} BEGIN {_take}; {_put}; END",
        f"CREATE TRIGGER {_table}_delete AFTER DELETE ON path BEGIN {_take}; END",
    ):
        event.listen(path, "after_create", DDL(" ".join(_statement.split())).execute_if(dialect="sqlite"))

purged_path = Table(
    "purged_path",
    metadata,
    Column("id", Integer, primary_key=True, doc="the higher, the later purged"),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("hash_part", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Integer, nullable=False, doc="when it was pushed"),
    Column("published_by", Integer, ForeignKey("token.id"), index=True),
    Column("hidden_at", Integer, nullable=False),
    Column("hidden_because", Text),
    Column("purged_at", Integer, nullable=False),
    UniqueConstraint("cache_id", "hash_part"),
)
"""What became of paths that are gone: for people only, and for a while. One that came back since may be here too."""

external = Table(
    "external",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("hash_part", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("nar_hash", BLOB, nullable=False),
    Column("nar_size", Integer, nullable=False),
    Column("references", Text, nullable=False),
    Column("signature", Text, nullable=False, doc="the upstream's, over the fingerprint of these columns"),
    Column("upstream_id", Integer, ForeignKey("upstream.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("cache_id", "hash_part"),
)

upload = Table(
    "upload",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("file_name", Text, nullable=False, doc="as it was uploaded, below `nar/`"),
    Column("compression", Text, nullable=False, doc="of the upload, as in a narinfo"),
    Column("file_hash", BLOB, nullable=False, doc="SHA-256 of the file as it was uploaded"),
    Column("file_size", Integer, nullable=False),
    Column("crc32", Integer, nullable=False, doc="of the NAR, as a gzip file of it ends with; 0 for others"),
    Column("nar_id", Integer, ForeignKey("nar.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("published_by", Integer, ForeignKey("token.id"), index=True),
    UniqueConstraint("cache_id", "file_name"),
)
"""NAR files that stock Nix uploaded: staged while no path of the cache has the NAR, and then an alias of its file."""

waiting_path = Table(
    "waiting_path",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("hash_part", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("nar_hash", BLOB, nullable=False),
    Column("nar_size", Integer, nullable=False),
    Column("references", Text, nullable=False),
    Column("deriver", Text),
    Column("system", Text),
    Column("ca", Text),
    Column("signatures", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("published_by", Integer, ForeignKey("token.id"), index=True),
    Column("published_from", Text, doc="the address; null: not known"),
    UniqueConstraint("cache_id", "hash_part"),
)
"""Paths that were published before their references. Nobody sees them."""

waiting_reference = Table(
    "waiting_reference",
    metadata,
    Column("waiting_id", Integer, ForeignKey("waiting_path.id", ondelete="CASCADE"), primary_key=True),
    Column("hash_part", Text, primary_key=True, index=True, doc="of a reference other than the path itself"),
)

build_log = Table(
    "build_log",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("derivation", Text, nullable=False, doc="base name, with `.drv`"),
    Column("blob_name", BLOB, nullable=False, doc="BLAKE3 of the object's bytes, which are the log as zstd"),
    Column("stored_bytes", Integer, nullable=False),
    Column("log_bytes", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("published_by", Integer, ForeignKey("token.id"), index=True),
    UniqueConstraint("cache_id", "derivation"),
)

realisation = Table(
    "realisation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("file_name", Text, nullable=False, doc="below the cache: `realisations/…` or `build-trace-v2/…`"),
    Column("body", BLOB, nullable=False, doc="JSON, as it was uploaded"),
    Column("created_at", Integer, nullable=False),
    Column("published_by", Integer, ForeignKey("token.id"), index=True),
    UniqueConstraint("cache_id", "file_name"),
)

debug_file = Table(
    "debug_file",
    metadata,
    Column("build_id", BLOB, primary_key=True, doc="20 bytes"),
    Column("nar_id", Integer, ForeignKey("nar.id", ondelete="CASCADE"), primary_key=True, index=True),
)
"""Which NARs have `lib/debug/.build-id/<2 letters>/<38 letters>.debug` for a build id."""

pin = Table(
    "pin",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("keep_days", Integer, doc="keep revisions younger than this, and the last one"),
    Column("keep_revisions", Integer, doc="keep so many of the last; both null: keep all for ever"),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("cache_id", "name"),
)

pin_revision = Table(
    "pin_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("pin_id", Integer, ForeignKey("pin.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False, doc="1 is the first"),
    Column("path_id", Integer, ForeignKey("path.id"), nullable=False, index=True),
    Column("artifacts", Text, nullable=False, doc="paths inside the store path, as a JSON list"),
    Column("created_at", Integer, nullable=False),
    Column("created_by", Integer, ForeignKey("token.id"), index=True),
    UniqueConstraint("pin_id", "number"),
)

collection = Table(
    "collection",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cache_name", Text, doc="null: of what no cache needs any more"),
    Column("began_at", Integer, nullable=False),
    Column("ended_at", Integer, nullable=False),
    Column("started_by", Text, nullable=False, doc="the maintenance loop, or whoever asked"),
    Column("result", Text, nullable=False, doc="JSON: what was done, in numbers"),
)
"""What collections did. It outlives the cache."""

retention_outline = Table(
    "retention_outline",
    metadata,
    Column("cache_id", Integer, ForeignKey("cache.id", ondelete="CASCADE"), primary_key=True),
    Column("made_at", Integer, nullable=False),
    Column("body", BLOB, nullable=False, doc="JSON, as in `services.retention`"),
)
"""What any retention of a cache would hide, as the last collection or plan of one summed it up."""

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Integer, nullable=False),
)
"""Who may carry out what only one process does at a time."""

verify_pass = Table(
    "verify_pass",
    metadata,
    Column("id", Integer, primary_key=True, doc="1, the only one"),
    Column("phase", Text, nullable=False, doc="`packs`, `nars` or `paths`"),
    Column("scope", Integer, nullable=False, doc="among paths: the cache"),
    Column("after", Integer, nullable=False, doc="the last pack, NAR or path that was looked at"),
    Column("began_at", Integer, nullable=False, doc="this pass"),
    Column("read_bytes", Integer, nullable=False, doc="in this pass"),
    Column("findings", Integer, nullable=False, doc="in this pass"),
    Column("completed_at", Integer, doc="the pass before; null: there was none"),
    Column("last_began_at", Integer, doc="the pass before, as the next two"),
    Column("last_read_bytes", Integer),
    Column("last_findings", Integer),
)
"""Where the verification that goes on for ever stands."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Integer, nullable=False, index=True),
    Column("action", Text, nullable=False, doc="as in `rules.audit`"),
    Column("cache_pattern", Text, nullable=False, doc="the name of the cache that it concerns, or a glob on names"),
    Column("subject", Text, doc="a pin, a path, the number of a token; null: the cache itself"),
    Column("who", Text, nullable=False, doc="for people"),
    Column("token_id", Integer, doc="refers to no row: the log outlives all"),
    Column("address", Text, doc="of the client; null: not over the network"),
    Column("request_id", Text),
    Column("old_values", Text, doc="JSON"),
    Column("new_values", Text, doc="JSON"),
    Index(
        "audit_exchanges",
        "cache_pattern",
        "at",
        sqlite_where=text("action = 'token.exchange'"),
        postgresql_where=text("action = 'token.exchange'"),
    ),
    sqlite_autoincrement=True,
)
"""Every change that somebody made. Triggers refuse to change or delete a row: it only grows, but for exchanges of
identities, which may be deleted when they are 90 days old."""

# Those of 90 days. DDL formats the text.
_IS_OLD_EXCHANGE = "OLD.action = 'token.exchange' AND OLD.at <= CAST(strftime('%%s', 'now') AS INTEGER) - 7776000"
_REFUSALS = (
    ("update", "UPDATE ON audit"),
    ("delete", f"DELETE ON audit WHEN NOT ({_IS_OLD_EXCHANGE})"),
    # INSERT OR REPLACE would delete a row without the trigger of DELETE.
    ("replace", "INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)"),
)
for _name, _when in _REFUSALS:
    event.listen(
        audit,
        "after_create",
        DDL(
            f"CREATE TRIGGER audit_refuses_{_name} BEFORE {_when} "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        ).execute_if(dialect="sqlite"),
    )

narinfo_version = Table(
    "narinfo_version",
    metadata,
    Column("added", Integer, nullable=False, doc="grows with each path"),
    Column("changed", Integer, nullable=False, doc="grows with each other change that a narinfo depends on"),
)
"""One row: how often something changed that a narinfo says, or whether there is one. Written by triggers alone."""

_NARINFO_CHANGES = {
    "path_insert": ("INSERT ON path", "added"),
    "path_update": ("UPDATE ON path WHEN OLD.hidden_at IS NULL OR NEW.hidden_at IS NULL", "changed"),
    "path_delete": ("DELETE ON path WHEN OLD.hidden_at IS NULL", "changed"),
    "cache_update": ("UPDATE OF name, is_public, store_dir ON cache", "changed"),
    "cache_delete": ("DELETE ON cache", "changed"),
}
event.listen(narinfo_version, "after_create", DDL("INSERT INTO narinfo_version VALUES (0, 0)"))
for _name, (_when, _column) in _NARINFO_CHANGES.items():
    event.listen(
        metadata,  # the tables that they are on exist then
        "after_create",
        DDL(
            f"CREATE TRIGGER narinfo_version_{_name} AFTER {_when} "  # noqa: S608  our own words
            f"BEGIN UPDATE narinfo_version SET {_column} = {_column} + 1; END"
        ).execute_if(dialect="sqlite"),
    )

cache_sum = Table(
    "cache_sum",
    metadata,
    Column("cache_id", Integer, primary_key=True),
    Column("visible_paths", Integer, nullable=False, server_default="0"),
    Column("hidden_paths", Integer, nullable=False, server_default="0"),
    Column("damaged_paths", Integer, nullable=False, server_default="0", doc="of the hidden ones, those damage hid"),
    Column("nar_bytes", Integer, nullable=False, server_default="0", doc="of the visible paths"),
    Column("last_push_at", Integer, doc="when a path was added last; null: none ever was"),
)
"""What the rows of `path` add up to, for each cache. Written by triggers alone, so that nobody needs to count."""

_CACHE_SUM = """
    UPDATE cache_sum SET visible_paths = visible_paths {sign} ({row}.hidden_at IS NULL),
    hidden_paths = hidden_paths {sign} ({row}.hidden_at IS NOT NULL),
    damaged_paths = damaged_paths {sign} coalesce(substr({row}.hidden_because, 1, 9) = 'damaged: ', 0),
    nar_bytes = nar_bytes {sign} ({row}.hidden_at IS NULL) * {row}.nar_size {more} WHERE cache_id = {row}.cache_id;
"""
_ADD = _CACHE_SUM.format(sign="+", row="NEW", more="")
_ADD_NEW = _CACHE_SUM.format(
    sign="+", row="NEW", more=", last_push_at = max(coalesce(last_push_at, 0), NEW.created_at)"
)
_TAKE = _CACHE_SUM.format(sign="-", row="OLD", more="")
for _name, _when, _statements in (
    ("cache_insert", "INSERT ON cache", "INSERT INTO cache_sum (cache_id) VALUES (NEW.id);"),
    ("cache_delete", "DELETE ON cache", "DELETE FROM cache_sum WHERE cache_id = OLD.id;"),
    ("path_insert", "INSERT ON path", _ADD_NEW),
    ("path_update", "UPDATE OF cache_id, hidden_at, hidden_because, nar_size ON path", f"{_TAKE} {_ADD}"),
    ("path_delete", "DELETE ON path", _TAKE),
):
    event.listen(
        metadata,
        "after_create",
        DDL(" ".join(f"CREATE TRIGGER cache_sum_{_name} AFTER {_when} BEGIN {_statements} END".split())).execute_if(
            dialect="sqlite"
        ),
    )

domain_sum = Table(
    "domain_sum",
    metadata,
    Column("domain_id", Integer, primary_key=True),
    Column("packs", Integer, nullable=False, server_default="0"),
    Column("pack_bytes", Integer, nullable=False, server_default="0"),
    Column("chunks", Integer, nullable=False, server_default="0"),
)
"""What the rows of `pack` and `chunk` add up to, for each domain; as `cache_sum`.

Triggers see every way to write rows but INSERT OR REPLACE, which deletes one without the
trigger of DELETE: we have none.
"""

_PACK_SUM = """
    UPDATE domain_sum SET packs = packs {sign} 1, pack_bytes = pack_bytes {sign} {row}.size_bytes
    WHERE domain_id = {row}.domain_id;
"""
_CHUNK_SUM = "UPDATE domain_sum SET chunks = chunks {sign} 1 WHERE domain_id = {row}.domain_id;"
_domain_triggers = {
    "domain_insert AFTER INSERT ON domain": "INSERT INTO domain_sum (domain_id) VALUES (NEW.id);",
    "domain_delete AFTER DELETE ON domain": "DELETE FROM domain_sum WHERE domain_id = OLD.id;",
}
for _table, _columns, _sum in (("pack", "domain_id, size_bytes", _PACK_SUM), ("chunk", "domain_id", _CHUNK_SUM)):
    _put, _take = _sum.format(sign="+", row="NEW"), _sum.format(sign="-", row="OLD")
    _domain_triggers |= {
        f"{_table}_insert AFTER INSERT ON {_table}": _put,
        f"{_table}_update AFTER UPDATE OF {_columns} ON {_table}": f"{_take} {_put}",
        f"{_table}_delete AFTER DELETE ON {_table}": _take,
    }
for _when, _statements in _domain_triggers.items():
    _trigger = DDL(" ".join(f"CREATE TRIGGER domain_sum_{_when} BEGIN {_statements} END".split()))
    event.listen(metadata, "after_create", _trigger.execute_if(dialect="sqlite"))

access_metadata = MetaData()
"""The tables of `access.db`, a database of its own: losing it loses no data."""

path_access = Table(
    "path_access",
    access_metadata,
    Column("path_id", Integer, primary_key=True),
    Column("last_used_at", Integer, nullable=False),
    Column("uses", Integer, nullable=False),
)

downloader = Table(
    "downloader",
    access_metadata,
    Column("id", Integer, primary_key=True),
    Column("token_id", Integer, nullable=False, doc="0: no token was needed"),
    Column("address", Text, nullable=False, doc="empty: the token tells who"),
    UniqueConstraint("token_id", "address"),
)
"""Who downloaded something."""

download = Table(
    "download",
    access_metadata,
    Column("path_id", Integer, primary_key=True),
    Column("downloader_id", Integer, primary_key=True),
    Column("downloads", Integer, nullable=False),
    Column("first_at", Integer, nullable=False),
    Column("last_at", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""Who downloaded the NAR of which path."""

traffic = Table(
    "traffic",
    access_metadata,
    Column("cache_id", Integer, primary_key=True),
    Column("seconds", Integer, primary_key=True, doc="how long the time is: an hour, or long ago a day"),
    Column("starts_at", Integer, primary_key=True, doc="a multiple of `seconds`"),
    Column("hits", Integer, nullable=False, server_default="0", doc="narinfos that were there"),
    Column("misses", Integer, nullable=False, server_default="0", doc="and that were not"),
    Column("nars", Integer, nullable=False, server_default="0", doc="answers with a NAR or a part of one"),
    Column("sent_bytes", Integer, nullable=False, server_default="0", doc="of narinfos and NARs"),
    Column("nar_bytes", Integer, doc="of the visible paths, some time in it; null: not looked at"),
    Column("stored_bytes", Integer, doc="of their chunks, then"),
    sqlite_with_rowid=False,
)
"""How much was asked of a cache, and how large it was, in each hour of the last weeks and each day before."""
