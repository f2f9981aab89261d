//! Credentials of the simulated sender. Error messages never show them; clap does not parse them,
//! because it quotes what it rejects.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::commands::parse_secret;
use crate::config::secret;
use butlr_simulate::sender::SenderCredentials;

#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
pub struct CredentialArguments {
    /// Header with an API key; use --api-key-file to hide it from other users of this machine
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_secret)]
    api_key: Option<SecretString>,
    /// Header with an API key that is read from a file
    #[arg(long, value_name = "NAME=FILE")]
    api_key_file: Option<String>,
    /// User and password for HTTP basic authentication
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_secret)]
    basic: Option<SecretString>,
    /// File with user:password for HTTP basic authentication
    #[arg(long, value_name = "FILE")]
    basic_file: Option<String>,
}

impl CredentialArguments {
    /// Reads the credentials, if any. The error says what is allowed, without showing the secret.
    pub fn read(&self) -> Result<Option<SenderCredentials>, String> {
        let read = |file: &str| secret::read_file(Path::new(file)).map(SecretString::from);
        if let Some(pair) = &self.api_key {
            let (name, key) = pair
                .expose_secret()
                .split_once(':')
                .ok_or("--api-key: write it as 'NAME: VALUE'")?;
            return api_key("--api-key", name, &SecretString::from(key)).map(Some);
        }
        if let Some(pair) = &self.api_key_file {
            let (name, file) = pair
                .split_once('=')
                .ok_or("--api-key-file: write it as NAME=FILE")?;
            let key = read(file).map_err(|e| format!("--api-key-file: {e}"))?;
            return api_key("--api-key-file", name, &key).map(Some);
        }
        if let Some(pair) = &self.basic {
            return basic("--basic", pair).map(Some);
        }
        if let Some(file) = &self.basic_file {
            let pair = read(file).map_err(|e| format!("--basic-file: {e}"))?;
            return basic("--basic-file", &pair).map(Some);
        }
        Ok(None)
    }
}

fn api_key(flag: &str, name: &str, key: &SecretString) -> Result<SenderCredentials, String> {
    let key = key.expose_secret().trim();
    secret::check_header_text(key).map_err(|e| format!("{flag}: the key: {e}"))?;
    SenderCredentials::api_key(name.trim(), &SecretString::from(key))
        .map_err(|e| format!("{flag}: {e}"))
}

fn basic(flag: &str, pair: &SecretString) -> Result<SenderCredentials, String> {
    let (user, password) = pair
        .expose_secret()
        .split_once(':')
        .ok_or_else(|| format!("{flag}: write it as USER:PASSWORD"))?;
    SenderCredentials::basic(user, &SecretString::from(password))
        .map_err(|e| format!("{flag}: {e}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CredentialCommandLine {
        #[command(flatten)]
        credentials: CredentialArguments,
    }

    fn read(flag: &str, value: &str) -> Result<Option<SenderCredentials>, String> {
        let line = CredentialCommandLine::try_parse_from(["simulate", flag, value]).unwrap();
        let shown = format!("{line:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        line.credentials.read()
    }

    #[test]
    fn every_way_to_give_credentials() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"user:s3cret\n").unwrap();
        let path = file.path().display();
        assert!(read("--api-key", "X-Api-Key: s3cret").unwrap().is_some());
        assert!(read("--basic", "user:s3:cret").unwrap().is_some());
        assert!(read("--basic-file", &path.to_string()).unwrap().is_some());
        let named = format!("x-api-key={path}");
        assert!(read("--api-key-file", &named).unwrap().is_some());
        let both = ["simulate", "--basic", "a:b", "--api-key", "a: b"];
        assert!(CredentialCommandLine::try_parse_from(both).is_err());
    }

    #[test]
    fn errors_never_show_a_secret() {
        for (flag, value, shown) in [
            ("--api-key", "s3cret", "'NAME: VALUE'"),
            ("--api-key", "a b: s3cret", "is not a header name"),
            ("--api-key", "x-key: s3cret\u{1}", "--api-key"),
            ("--api-key", "x-key:", "--api-key"),
            ("--basic", "s3cret", "USER:PASSWORD"),
            ("--api-key-file", "x-key", "NAME=FILE"),
            ("--basic-file", "/nowhere", "/nowhere cannot be read"),
        ] {
            let error = read(flag, value).unwrap_err();
            assert!(error.contains(shown), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
