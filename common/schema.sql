-- The ledger: the account of every file that ever entered incoming/. The directory is the truth.
-- Times are UTC, ISO 8601 with microseconds, e.g. 2026-11-24T09:00:00.123456Z.

CREATE TABLE instances (
  id                  INTEGER PRIMARY KEY,
  file_name           TEXT NOT NULL UNIQUE,       -- in incoming/ or quarantine/, as `state` says
  sop_instance_uid    TEXT NOT NULL DEFAULT '',
  sop_class_uid       TEXT NOT NULL DEFAULT '',
  patient_id          TEXT NOT NULL DEFAULT '',
  study_instance_uid  TEXT NOT NULL DEFAULT '',
  series_instance_uid TEXT NOT NULL DEFAULT '',
  modality            TEXT NOT NULL DEFAULT '',
  transfer_syntax_uid TEXT NOT NULL DEFAULT '',
  calling_ae_title    TEXT NOT NULL DEFAULT '',   -- empty for a file dropped by hand
  called_ae_title     TEXT NOT NULL DEFAULT '',
  peer_address        TEXT NOT NULL DEFAULT '',
  size_bytes          INTEGER NOT NULL,
  received_at         TEXT NOT NULL,
  state               TEXT NOT NULL CHECK (state IN ('incoming', 'sent', 'quarantine', 'removed')),
  attempts            INTEGER NOT NULL DEFAULT 0, -- deliveries whose outcome was about this instance
  next_attempt_at     TEXT,                       -- NULL: as soon as possible
  cause               TEXT NOT NULL DEFAULT '' CHECK (cause IN (
                        '', 'not-dicom', 'truncated', 'not-storable', 'unreadable', 'not-a-file', 'refused',
                        'too-large', 'conflict', 'unconfirmed', 'gave-up', 'duplicate', 'warning')),
  http_status         INTEGER,                    -- of the last answer that was about this instance
  settled_at          TEXT                        -- when it became sent, quarantine or removed
);

-- What is owed and what is quarantined is asked for at every scan; what was sent grows for years.
CREATE INDEX instances_state ON instances (state);
CREATE INDEX instances_received_at ON instances (received_at);
CREATE INDEX instances_sop_instance_uid ON instances (sop_instance_uid);
CREATE INDEX instances_study_instance_uid ON instances (study_instance_uid);
CREATE INDEX instances_patient_id ON instances (patient_id) WHERE patient_id <> '';

-- Append-only. Each event is written in the transaction of the row that it explains.
CREATE TABLE events (
  id          INTEGER PRIMARY KEY,
  instance_id INTEGER NOT NULL REFERENCES instances (id),
  at          TEXT NOT NULL,
  event       TEXT NOT NULL CHECK (event IN (
                'received', 'adopted', 'attempt', 'sent', 'quarantined', 'released', 'removed')),
  http_status INTEGER,
  cause       TEXT NOT NULL DEFAULT '',
  detail      TEXT NOT NULL DEFAULT ''            -- in words, without patient data
);

CREATE INDEX events_instance_id ON events (instance_id);
