"""The store on SQLite: one machine, any number of processes."""
