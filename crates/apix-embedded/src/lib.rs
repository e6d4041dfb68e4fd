//! The durable engine of APIX inside the process, on SQLite
