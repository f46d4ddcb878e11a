"""The operator's seat: a command line and a web page. It reads through common, and decides no deliveries."""
