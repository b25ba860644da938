-- Times are Unix milliseconds, 0 for none. Flags are 0 or 1.

PRAGMA application_id = 0x544C4D4B; -- TLMK

CREATE TABLE meta (
  one          INTEGER PRIMARY KEY CHECK (one = 1),
  store_id     TEXT    NOT NULL,
  revision     INTEGER NOT NULL,
  last_event   INTEGER NOT NULL,
  audit_seq    INTEGER NOT NULL,
  audit_hash   BLOB    NOT NULL,
  audit_at     INTEGER NOT NULL,
  audit_signed BLOB    NOT NULL
) STRICT;

-- name_key is the name with its case folded away. key_state and key_expires
-- repeat what the newest key says, for lists.
CREATE TABLE machines (
  ek_hash        TEXT    PRIMARY KEY,
  name           TEXT    NOT NULL,
  name_key       TEXT    NOT NULL,
  labels         TEXT    NOT NULL,
  evidence       TEXT    NOT NULL,
  membership     TEXT    NOT NULL,
  membership_by  TEXT    NOT NULL,
  allowed        INTEGER NOT NULL,
  ek_public      BLOB,
  ek_certificate BLOB,
  ak_name        BLOB,
  revoked        TEXT    NOT NULL,
  created_at     INTEGER NOT NULL,
  seen_at        INTEGER NOT NULL,
  revision       INTEGER NOT NULL,
  key_state      TEXT    NOT NULL DEFAULT '',
  key_expires    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX machines_name ON machines (name_key) WHERE name_key <> '';
CREATE INDEX machines_list ON machines (name_key, ek_hash);
CREATE INDEX machines_state ON machines (key_state, name_key, ek_hash);

CREATE TABLE machine_labels (
  ek_hash  TEXT NOT NULL REFERENCES machines ON DELETE CASCADE,
  k        TEXT NOT NULL,
  v        TEXT NOT NULL,
  name_key TEXT NOT NULL,
  PRIMARY KEY (ek_hash, k)
) STRICT, WITHOUT ROWID;
CREATE INDEX machine_labels_list ON machine_labels (k, v, name_key, ek_hash);

-- born is the revision at which the key was first written: the newest key of
-- a machine is told by it and not by a clock.
CREATE TABLE machine_keys (
  kid         TEXT    PRIMARY KEY,
  ek_hash     TEXT    NOT NULL REFERENCES machines ON DELETE CASCADE,
  state       TEXT    NOT NULL,
  reason      TEXT    NOT NULL,
  public      BLOB,
  evidence    BLOB,
  pcrs        BLOB,
  enrolled_at INTEGER NOT NULL,
  attested_at INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  revision    INTEGER NOT NULL,
  born        INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_keys_revision ON machine_keys (revision, kid);
CREATE INDEX machine_keys_machine ON machine_keys (ek_hash, born, kid);

CREATE TABLE events (
  revision INTEGER PRIMARY KEY,
  previous INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  what     TEXT    NOT NULL,
  kids     TEXT    NOT NULL,
  more     INTEGER NOT NULL,
  instance TEXT    NOT NULL
) STRICT;

CREATE TABLE join_tokens (
  id           TEXT    PRIMARY KEY,
  sealed_key   BLOB    NOT NULL,
  uses         INTEGER NOT NULL,
  used         INTEGER NOT NULL,
  name         TEXT    NOT NULL,
  name_pattern TEXT    NOT NULL,
  labels       TEXT    NOT NULL,
  note         TEXT    NOT NULL,
  created_at   INTEGER NOT NULL,
  created_by   TEXT    NOT NULL,
  expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX join_tokens_expires ON join_tokens (expires_at);

CREATE TABLE used_sessions (
  id         BLOB    PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX used_sessions_expires ON used_sessions (expires_at);

CREATE TABLE policies (
  scope      TEXT    PRIMARY KEY,
  body       TEXT    NOT NULL,
  revision   INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  updated_by TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (
  pubkey        TEXT    PRIMARY KEY,
  ppid          BLOB,
  quote         BLOB,
  operator      TEXT    NOT NULL,
  owner         TEXT    NOT NULL,
  operator_key  TEXT    NOT NULL,
  owner_key     TEXT    NOT NULL,
  generation    INTEGER NOT NULL,
  state         TEXT    NOT NULL,
  revoked       TEXT    NOT NULL,
  tcb_status    TEXT    NOT NULL,
  advisories    TEXT    NOT NULL,
  measurements  TEXT    NOT NULL,
  tls_key       BLOB,
  policy        TEXT    NOT NULL,
  ppid_proven   INTEGER NOT NULL,
  registered_at INTEGER NOT NULL,
  verified_at   INTEGER NOT NULL,
  expires_at    INTEGER NOT NULL,
  revision      INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_state ON instances (state, pubkey);
CREATE INDEX instances_operator ON instances (operator_key, pubkey);
CREATE INDEX instances_owner ON instances (owner_key, pubkey);

CREATE TABLE shared_values (
  name  TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_log (
  seq     INTEGER PRIMARY KEY,
  at      INTEGER NOT NULL,
  actor   TEXT    NOT NULL,
  action  TEXT    NOT NULL,
  subject TEXT    NOT NULL,
  detail  TEXT    NOT NULL,
  hash    BLOB    NOT NULL
) STRICT;

-- The log grows at its end and changes nowhere else. REPLACE INTO deletes
-- without firing a DELETE trigger, so that inserting is held to the end too.
CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_insert BEFORE INSERT ON audit_log
WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_log)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
