"""Names and call signatures that users of other packages already have: change the import, keep the program."""
