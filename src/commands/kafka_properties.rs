//! librdkafka properties on the command line. Values may be secrets, so error messages never show
//! them; clap does not parse them, because it quotes what it rejects.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::commands::parse_secret;
use crate::config::secret;

#[derive(clap::Args, Clone, Debug)]
pub struct PropertyArguments {
    /// librdkafka property, for example security.protocol=SASL_SSL; can be repeated
    #[arg(long = "kafka-property", value_name = "NAME=VALUE", value_parser = parse_secret)]
    properties: Vec<SecretString>,
    /// librdkafka property whose value is read from a file, for example
    /// sasl.password=/run/secrets/kafka
    #[arg(long = "kafka-property-file", value_name = "NAME=FILE")]
    files: Vec<String>,
}

impl PropertyArguments {
    /// Returns names and values. The error says what is allowed, without showing the value.
    pub fn read(&self) -> Result<Vec<(String, String)>, String> {
        let given = self.properties.iter().map(|property| {
            let pair = property.expose_secret().split_once('=');
            let (name, value) = pair.ok_or(
                "--kafka-property: write it as NAME=VALUE, for example security.protocol=SASL_SSL",
            )?;
            Ok((name.trim().to_owned(), value.to_owned()))
        });
        let from_files = self.files.iter().map(|property| {
            let pair = property.split_once('=');
            let (name, file) = pair.ok_or("--kafka-property-file: write it as NAME=FILE")?;
            let value = secret::read_file(Path::new(file))
                .map_err(|e| format!("--kafka-property-file: {e}"))?;
            Ok((name.trim().to_owned(), value))
        });
        given.chain(from_files).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;

    #[derive(Parser, Debug)]
    struct PropertyCommandLine {
        #[command(flatten)]
        properties: PropertyArguments,
    }

    #[test]
    fn values_come_from_the_command_line_or_a_file_and_are_never_shown() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"s3cret\n").unwrap();
        let from_file = format!("sasl.password={}", file.path().display());
        let line = PropertyCommandLine::parse_from([
            "x",
            "--kafka-property",
            "sasl.username=me=you",
            "--kafka-property-file",
            &from_file,
        ]);
        assert_eq!(
            line.properties.read().unwrap(),
            [
                ("sasl.username".to_owned(), "me=you".to_owned()),
                ("sasl.password".to_owned(), "s3cret".to_owned())
            ]
        );
        assert!(!format!("{line:?}").contains("me=you"));
        let line =
            PropertyCommandLine::parse_from(["x", "--kafka-property", "sasl.password:s3cret"]);
        let error = line.properties.read().unwrap_err();
        assert!(error.contains("NAME=VALUE") && !error.contains("s3cret"));
    }
}
