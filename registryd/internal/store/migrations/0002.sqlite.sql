-- What instances say of themselves, and which counter was seen of whom: a row
-- of identities is never deleted, since it is what a disk that was set back is
-- held against.
ALTER TABLE instances ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN statement BLOB;
ALTER TABLE instances ADD COLUMN facts TEXT NOT NULL DEFAULT '';

CREATE TABLE identities (
  origin        TEXT    PRIMARY KEY,
  instance      TEXT    NOT NULL,
  counter       INTEGER NOT NULL,
  verified      INTEGER NOT NULL,
  operator_key  TEXT    NOT NULL,
  owner_key     TEXT    NOT NULL,
  revoked       TEXT    NOT NULL,
  first_seen_at INTEGER NOT NULL,
  seen_at       INTEGER NOT NULL,
  refused_at    INTEGER NOT NULL,
  revision      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
