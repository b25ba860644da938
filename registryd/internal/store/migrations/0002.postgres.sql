-- What instances say of themselves, and which counter was seen of whom: a row
-- of identities is never deleted, since it is what a disk that was set back is
-- held against.
ALTER TABLE instances ADD COLUMN origin TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN statement BYTEA;
ALTER TABLE instances ADD COLUMN facts TEXT COLLATE "C" NOT NULL DEFAULT '';

CREATE TABLE identities (
  origin        TEXT COLLATE "C" PRIMARY KEY,
  instance      TEXT COLLATE "C" NOT NULL,
  counter       BIGINT NOT NULL,
  verified      BIGINT NOT NULL,
  operator_key  TEXT COLLATE "C" NOT NULL,
  owner_key     TEXT COLLATE "C" NOT NULL,
  revoked       TEXT COLLATE "C" NOT NULL,
  first_seen_at BIGINT NOT NULL,
  seen_at       BIGINT NOT NULL,
  refused_at    BIGINT NOT NULL,
  revision      BIGINT NOT NULL
);
