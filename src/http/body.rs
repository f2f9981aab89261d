//! Reads a request's body: bounded in time, in size, and in size after decompression.

use std::io::Read;
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, BytesMut, Payload};
use flate2::read::MultiGzDecoder;
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout_at;

use crate::budget::RequestPermit;
use crate::rejection::Rejection;

/// Reads the whole body and takes its bytes from the budget as they arrive.
///
/// # Errors
/// 408, 413, 415, 400 (incomplete, invalid gzip), or 503 if too many bytes are in flight.
pub async fn read(
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
    deadline: Instant,
    permit: &mut RequestPermit,
) -> Result<Bytes, Rejection> {
    let too_large = || Rejection::BodyTooLarge { limit };
    let headers = request.headers();
    check_content_type(headers)?;
    let gzip = is_gzip(headers)?;
    let content_length = headers.get(CONTENT_LENGTH);
    let content_length: Option<usize> = content_length.and_then(|v| v.to_str().ok()?.parse().ok());
    if content_length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }

    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        // Most bodies have arrived by now and need no timer.
        let next = match payload.next().now_or_never() {
            Some(next) => next,
            None => match timeout_at(deadline.into(), payload.next()).await {
                Ok(next) => next,
                Err(_) => return Err(Rejection::BodyTimeout),
            },
        };
        let chunk = match next {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(PayloadError::Overflow)) => return Err(too_large()),
            Some(Err(_)) => return Err(Rejection::IncompleteBody),
        };
        let received = first.as_ref().map_or(0, |f| f.len().max(rest.len()));
        if received + chunk.len() > limit {
            return Err(too_large());
        }
        permit.take_bytes(chunk.len())?;
        // Most bodies arrive in one chunk, which is not copied then.
        match &first {
            None => first = Some(chunk),
            Some(first) => {
                if rest.is_empty() {
                    rest.extend_from_slice(first);
                }
                rest.extend_from_slice(&chunk);
            }
        }
    }
    let body = match first {
        Some(first) if rest.is_empty() => first,
        _ => rest.freeze(),
    };
    if gzip {
        decompress(&body, limit, permit)
    } else {
        Ok(body)
    }
}

/// Accepts every name of JSON, or no content type at all.
fn check_content_type(headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    if value == "application/json" {
        return Ok(());
    }
    let value = value.to_str().unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    let is_json = essence.is_empty()
        || essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("text/json")
        || (essence.len() > 5
            && essence
                .get(essence.len() - 5..)
                .is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json")));
    is_json.then_some(()).ok_or(Rejection::UnsupportedMediaType)
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Rejection> {
    let mut encodings = headers.get_all(CONTENT_ENCODING);
    match (encodings.next().map(|v| v.as_bytes()), encodings.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.eq_ignore_ascii_case(b"identity") => Ok(false),
        (Some(one), None)
            if one.eq_ignore_ascii_case(b"gzip") || one.eq_ignore_ascii_case(b"x-gzip") =>
        {
            Ok(true)
        }
        _ => Err(Rejection::UnsupportedEncoding),
    }
}

/// Decompresses `body`. Never holds more than `limit` bytes plus one step, whatever the input is.
fn decompress(body: &[u8], limit: usize, permit: &mut RequestPermit) -> Result<Bytes, Rejection> {
    const STEP: usize = 16 * 1024;
    let mut decoder = MultiGzDecoder::new(body);
    let mut plain = Vec::new();
    loop {
        let step = decoder.by_ref().take(STEP as u64).read_to_end(&mut plain);
        let read = step.map_err(|_| Rejection::InvalidGzip)?;
        if plain.len() > limit {
            return Err(Rejection::BodyTooLarge { limit });
        }
        permit.take_bytes(read)?;
        if read < STEP {
            return Ok(plain.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::InFlightBudget;
    use actix_web::http::header::HeaderValue;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    use std::sync::Arc;

    fn new_budget() -> Arc<InFlightBudget> {
        let config = crate::config::load(&Default::default(), &|_, _| Ok(())).unwrap();
        InFlightBudget::new(&config.http)
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn decompression_is_bounded_and_rejects_truncated_input() {
        let budget = new_budget();
        let mut permit = budget.new_permit();
        let plain = vec![b' '; 100_000];
        let packed = gzip(&plain);
        assert!(packed.len() < 1_000);
        assert_eq!(
            decompress(&packed, 100_000, &mut permit).unwrap().len(),
            100_000
        );
        assert_eq!(
            decompress(&packed, 99_999, &mut permit),
            Err(Rejection::BodyTooLarge { limit: 99_999 })
        );
        let two_members = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(
            &decompress(&two_members, 10, &mut permit).unwrap()[..],
            b"abcd"
        );
        for invalid in [&packed[..packed.len() - 1], b"{}", b""] {
            assert_eq!(
                decompress(invalid, 100_000, &mut permit),
                Err(Rejection::InvalidGzip)
            );
        }
        drop(permit);
        assert_eq!(budget.bytes.current(), 0);
    }

    #[test]
    fn several_content_types_mean_json() {
        let headers_with = |name, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            headers
        };
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.butlr+json",
            "text/json",
        ] {
            assert_eq!(
                check_content_type(&headers_with(CONTENT_TYPE, good)),
                Ok(())
            );
        }
        assert_eq!(check_content_type(&HeaderMap::new()), Ok(()));
        for bad in ["text/plain", "application/xml", "json"] {
            assert_eq!(
                check_content_type(&headers_with(CONTENT_TYPE, bad)),
                Err(Rejection::UnsupportedMediaType)
            );
        }
        assert_eq!(is_gzip(&headers_with(CONTENT_ENCODING, "GZIP")), Ok(true));
        assert_eq!(
            is_gzip(&headers_with(CONTENT_ENCODING, "identity")),
            Ok(false)
        );
        assert_eq!(
            is_gzip(&headers_with(CONTENT_ENCODING, "br")),
            Err(Rejection::UnsupportedEncoding)
        );
    }
}
