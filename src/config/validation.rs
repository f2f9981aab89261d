//! Rules between sections.

use super::reader::SectionReader;
use super::{Config, admin, http, kafka, process, spool, topics};
use std::net::SocketAddr;

pub(super) fn check(config: &Config, root: &SectionReader<'_>) {
    http::check(&config.http, root);
    kafka::check(&config.kafka, &config.http, root);
    topics::check(&config.topics, &config.kafka, root);
    spool::check(&config.spool, &config.kafka, &config.http, root);
    process::check(&config.shutdown, root);
    check_listeners(&config.http, &config.admin, root);
    check_unauthenticated_bind(config, root);
}

fn check_listeners(http: &http::HttpConfig, admin: &admin::AdminConfig, root: &SectionReader<'_>) {
    let (ingest, admin) = (http.bind, admin.bind);
    let same_address =
        ingest.ip() == admin.ip() || ingest.ip().is_unspecified() || admin.ip().is_unspecified();
    root.check_rule(&["admin.bind", "http.bind"], || {
        (ingest.port() == admin.port() && ingest.port() != 0 && same_address)
            .then(|| format!("{admin} is used by http.bind ({ingest}); use another port"))
    });
}

fn check_unauthenticated_bind(config: &Config, root: &SectionReader<'_>) {
    let bind = config.http.bind;
    root.check_rule(&["http.bind", "auth"], || {
        (!is_loopback(bind) && config.auth.is_empty()).then(|| {
            format!(
                "other machines can reach {bind}, and without credentials anybody could write to \
                 Kafka; configure credentials (auth.api_keys or auth.basic), or bind to loopback, \
                 as in 127.0.0.1:{}",
                bind.port()
            )
        })
    });
}

/// Returns `true` if only this machine can reach the address. The unspecified address stands for
/// all addresses, so it is not loopback.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
