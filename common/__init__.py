"""What receiver, uploader and console share: settings, spool, ledger, instances, logging."""
