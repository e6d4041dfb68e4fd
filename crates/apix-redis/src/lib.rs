//! APIX on Redis and Valkey
