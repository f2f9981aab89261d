//! HTTP: the ingest listener, in the order of a request, and the admin listener.

pub mod admin;
pub mod body;
pub mod gate;
pub mod ingest;
pub mod response;
pub mod tls;
