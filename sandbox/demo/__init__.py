"""`make demo`: receiver, uploader and sandbox at work on sample instances that this package draws."""
