//! HTTP and live clients of APIX
