-- Times are Unix milliseconds, 0 for none. Flags are 0 or 1. Texts are ordered
-- by their bytes, as in the other database.

CREATE TABLE meta (
  one          BIGINT PRIMARY KEY CHECK (one = 1),
  store_id     TEXT COLLATE "C" NOT NULL,
  revision     BIGINT NOT NULL,
  last_event   BIGINT NOT NULL,
  audit_seq    BIGINT NOT NULL,
  audit_hash   BYTEA NOT NULL,
  audit_at     BIGINT NOT NULL,
  audit_signed BYTEA NOT NULL
);

-- name_key is the name with its case folded away. key_state and key_expires
-- repeat what the newest key says, for lists.
CREATE TABLE machines (
  ek_hash        TEXT COLLATE "C" PRIMARY KEY,
  name           TEXT COLLATE "C" NOT NULL,
  name_key       TEXT COLLATE "C" NOT NULL,
  labels         TEXT COLLATE "C" NOT NULL,
  evidence       TEXT COLLATE "C" NOT NULL,
  membership     TEXT COLLATE "C" NOT NULL,
  membership_by  TEXT COLLATE "C" NOT NULL,
  allowed        BIGINT NOT NULL,
  ek_public      BYTEA,
  ek_certificate BYTEA,
  ak_name        BYTEA,
  revoked        TEXT COLLATE "C" NOT NULL,
  created_at     BIGINT NOT NULL,
  seen_at        BIGINT NOT NULL,
  revision       BIGINT NOT NULL,
  key_state      TEXT COLLATE "C" NOT NULL DEFAULT '',
  key_expires    BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX machines_name ON machines (name_key) WHERE name_key <> '';
CREATE INDEX machines_list ON machines (name_key, ek_hash);
CREATE INDEX machines_state ON machines (key_state, name_key, ek_hash);

CREATE TABLE machine_labels (
  ek_hash  TEXT COLLATE "C" NOT NULL REFERENCES machines ON DELETE CASCADE,
  k        TEXT COLLATE "C" NOT NULL,
  v        TEXT COLLATE "C" NOT NULL,
  name_key TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (ek_hash, k)
);
CREATE INDEX machine_labels_list ON machine_labels (k, v, name_key, ek_hash);

-- born is the revision at which the key was first written: the newest key of
-- a machine is told by it and not by a clock.
CREATE TABLE machine_keys (
  kid         TEXT COLLATE "C" PRIMARY KEY,
  ek_hash     TEXT COLLATE "C" NOT NULL REFERENCES machines ON DELETE CASCADE,
  state       TEXT COLLATE "C" NOT NULL,
  reason      TEXT COLLATE "C" NOT NULL,
  public      BYTEA,
  evidence    BYTEA,
  pcrs        BYTEA,
  enrolled_at BIGINT NOT NULL,
  attested_at BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  revision    BIGINT NOT NULL,
  born        BIGINT NOT NULL
);
CREATE INDEX machine_keys_revision ON machine_keys (revision, kid);
CREATE INDEX machine_keys_machine ON machine_keys (ek_hash, born, kid);

CREATE TABLE events (
  revision BIGINT PRIMARY KEY,
  previous BIGINT NOT NULL,
  at       BIGINT NOT NULL,
  what     TEXT COLLATE "C" NOT NULL,
  kids     TEXT COLLATE "C" NOT NULL,
  more     BIGINT NOT NULL,
  instance TEXT COLLATE "C" NOT NULL
);

CREATE TABLE join_tokens (
  id           TEXT COLLATE "C" PRIMARY KEY,
  sealed_key   BYTEA NOT NULL,
  uses         BIGINT NOT NULL,
  used         BIGINT NOT NULL,
  name         TEXT COLLATE "C" NOT NULL,
  name_pattern TEXT COLLATE "C" NOT NULL,
  labels       TEXT COLLATE "C" NOT NULL,
  note         TEXT COLLATE "C" NOT NULL,
  created_at   BIGINT NOT NULL,
  created_by   TEXT COLLATE "C" NOT NULL,
  expires_at   BIGINT NOT NULL
);
CREATE INDEX join_tokens_expires ON join_tokens (expires_at);

CREATE TABLE used_sessions (
  id         BYTEA    PRIMARY KEY,
  expires_at BIGINT NOT NULL
);
CREATE INDEX used_sessions_expires ON used_sessions (expires_at);

CREATE TABLE policies (
  scope      TEXT COLLATE "C" PRIMARY KEY,
  body       TEXT COLLATE "C" NOT NULL,
  revision   BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  updated_by TEXT COLLATE "C" NOT NULL
);

CREATE TABLE instances (
  pubkey        TEXT COLLATE "C" PRIMARY KEY,
  ppid          BYTEA,
  quote         BYTEA,
  operator      TEXT COLLATE "C" NOT NULL,
  owner         TEXT COLLATE "C" NOT NULL,
  operator_key  TEXT COLLATE "C" NOT NULL,
  owner_key     TEXT COLLATE "C" NOT NULL,
  generation    BIGINT NOT NULL,
  state         TEXT COLLATE "C" NOT NULL,
  revoked       TEXT COLLATE "C" NOT NULL,
  tcb_status    TEXT COLLATE "C" NOT NULL,
  advisories    TEXT COLLATE "C" NOT NULL,
  measurements  TEXT COLLATE "C" NOT NULL,
  tls_key       BYTEA,
  policy        TEXT COLLATE "C" NOT NULL,
  ppid_proven   BIGINT NOT NULL,
  registered_at BIGINT NOT NULL,
  verified_at   BIGINT NOT NULL,
  expires_at    BIGINT NOT NULL,
  revision      BIGINT NOT NULL
);
CREATE INDEX instances_state ON instances (state, pubkey);
CREATE INDEX instances_operator ON instances (operator_key, pubkey);
CREATE INDEX instances_owner ON instances (owner_key, pubkey);

CREATE TABLE shared_values (
  name  TEXT COLLATE "C" PRIMARY KEY,
  value BYTEA NOT NULL
);

CREATE TABLE audit_log (
  seq     BIGINT PRIMARY KEY,
  at      BIGINT NOT NULL,
  actor   TEXT COLLATE "C" NOT NULL,
  action  TEXT COLLATE "C" NOT NULL,
  subject TEXT COLLATE "C" NOT NULL,
  detail  TEXT COLLATE "C" NOT NULL,
  hash    BYTEA NOT NULL
);

-- The log grows at its end and changes nowhere else.
CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE FUNCTION audit_log_append() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM audit_log) THEN
    RAISE EXCEPTION 'the audit log is append-only';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER audit_log_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse();
CREATE TRIGGER audit_log_insert BEFORE INSERT ON audit_log
  FOR EACH ROW EXECUTE FUNCTION audit_log_append();
