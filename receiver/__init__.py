"""Storage SCP: takes instances from imaging devices and keeps them safe in the spool."""
