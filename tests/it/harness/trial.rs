//! Registration of tests, and the check which of them can run here.

use std::env;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

/// Lists the tests of a module: `trials! { "http": [one, two], "kafka" needs
/// ["BUTLR_BRIDGE_TEST_KAFKA"]: [three] }`.
macro_rules! trials {
    ($($kind:literal $(needs [$($need:literal),+])? : [$($name:ident),* $(,)?]),* $(,)?) => {
        /// Returns the tests of this module.
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            let mut all = Vec::new();
            $({
                let needs: &'static [&'static str] = &[$($($need),+)?];
                all.extend([$(
                    $crate::harness::trial(
                        $kind,
                        concat!(module_path!(), "::", stringify!($name)),
                        needs,
                        $name as fn(),
                    ),
                )*]);
            })*
            all
        }
    };
}
pub(crate) use trials;

/// A test that takes longer is reported, to keep the duration of the whole suite in check.
const SLOW_TEST: Duration = Duration::from_secs(10);

/// Tests that cannot run here, and the reason.
static UNMET_TESTS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Creates one test. `needs` lists the environment variables without which it cannot run.
pub fn trial(
    kind: &str,
    path: &str,
    needs: &'static [&'static str],
    run: impl FnOnce() + Send + 'static,
) -> Trial {
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    let missing: Vec<_> = missing(needs).collect();
    let met = missing.is_empty();
    let reason = format!("needs {}", missing.join(", "));
    let required = env::var("BUTLR_BRIDGE_TEST_REQUIRE_ALL").is_ok_and(|v| v == "1");
    if !met {
        let mut unmet = UNMET_TESTS.lock().expect("lock not poisoned");
        unmet.push((name.to_owned(), reason.clone()));
    }
    let test_name = name.to_owned();
    Trial::test(name, move || {
        if !met {
            return Err(reason.into());
        }
        let began = Instant::now();
        run();
        let took = began.elapsed();
        if took > SLOW_TEST {
            eprintln!("took {:.0} s: {test_name}", took.as_secs_f64());
        }
        Ok(())
    })
    .with_kind(kind)
    .with_ignored_flag(!met && !required)
}

fn missing(needs: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    let unset = |need: &&str| env::var_os(need).is_none_or(|value| value.is_empty());
    needs.iter().copied().filter(unset)
}

/// Prints a line to standard error for each selected test that is skipped.
pub fn print_skipped(arguments: &Arguments, trials: &[Trial]) {
    let asked_for = |name: &str| match &arguments.filter {
        Some(filter) if arguments.exact => name == filter,
        Some(filter) => name.contains(filter.as_str()),
        None => true,
    };
    if arguments.list {
        return;
    }
    let unmet = UNMET_TESTS.lock().expect("lock not poisoned");
    for trial in trials.iter().filter(|t| t.has_ignored_flag()) {
        let why = unmet.iter().find(|(name, _)| name == trial.name());
        if let Some((name, reason)) = why
            && asked_for(name)
        {
            eprintln!("skipped: {name}: {reason}");
        }
    }
}

/// Prints the log of in-process bridges if `BUTLR_BRIDGE_TEST_LOG` sets a level.
pub fn init_log() {
    let Ok(level) = env::var("BUTLR_BRIDGE_TEST_LOG") else {
        return;
    };
    let level = toml::Value::String(level);
    let sources = butlr_bridge::config::ConfigSources {
        flags: vec![("log.level".to_owned(), level)],
        ..Default::default()
    };
    let config = butlr_bridge::config::load(&sources, &|_, _| Ok(())).expect("a log level");
    butlr_bridge::telemetry::init(&config.log);
}
