-- Version 2: requests that are under way for long, so that an operator can tell slow from stuck.
-- A row is there while its request is, renewed every few seconds; most requests end before they get one.

CREATE TABLE transfers (
  instance_id INTEGER PRIMARY KEY REFERENCES instances (id), -- the first instance of the request
  instances   INTEGER NOT NULL,                              -- how many it holds
  size_bytes  INTEGER NOT NULL,                              -- of the whole request
  sent_bytes  INTEGER NOT NULL,                              -- as many as size_bytes: the answer is waited for
  begun_at    TEXT NOT NULL,
  moved_at    TEXT NOT NULL,                                 -- when a byte went out last: long ago means stuck
  seen_at     TEXT NOT NULL                                  -- when this was written: long ago means a dead process
);
