"""`make demo`: receiver, uploader, console and sandbox at work on sample instances that this package draws."""
