//! Calls that outlive a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Turns a panic of `call` into its message.
pub(super) fn catch_panics<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        message.unwrap_or("no message").to_owned()
    })
}
