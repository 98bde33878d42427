"""The store on PostgreSQL: any number of machines."""
