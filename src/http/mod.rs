//! HTTP: the ingest listener, in the order of a request, and the admin listener.

pub mod connections;
pub mod ingest;

pub mod body;
pub mod response;

pub mod tls;

pub mod admin;
