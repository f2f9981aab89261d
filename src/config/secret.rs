//! Secrets: written in the configuration itself, or in a file of their own.

use super::reader::SectionReader;
use secrecy::SecretString;
use std::io::Read;
use std::path::Path;

/// Larger files are no secrets but a wrong path.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What a secret that travels in an HTTP header may consist of.
pub(super) const HEADER_TEXT: &str = "visible ASCII characters, with spaces inside at most";

/// Reads the secret `name` of a section, or the file that `name`_file names. A mistake is reported; the value never is.
pub(super) fn read(section: &SectionReader<'_>, name: &str) -> Option<String> {
    let file_name = format!("{name}_file");
    if section.is_set(name) && section.is_set(&file_name) {
        section.report_error(
            &file_name,
            format!("{name} is given too; allowed is one of the two"),
        );
        return None;
    }
    let (name, secret) = match section.text(&file_name) {
        Some(path) => match read_file(Path::new(&path)) {
            Ok(secret) => (file_name.as_str(), secret),
            Err(problem) => {
                section.report_error(&file_name, problem);
                return None;
            }
        },
        None => (name, section.secret(name)?),
    };
    match check_header_text(&secret) {
        Ok(()) => Some(secret),
        Err(problem) => {
            section.report_error(name, problem);
            None
        }
    }
}

/// The same for a secret without which its section makes no sense.
pub(super) fn read_required(section: &SectionReader<'_>, name: &str) -> Option<SecretString> {
    let file_name = format!("{name}_file");
    if !section.is_set(name) && !section.is_set(&file_name) {
        section.report_missing(name, format!("missing; give {name} or {file_name}"));
        return None;
    }
    read(section, name).map(SecretString::from)
}

/// The content of a secret's file, without the line ends after it. The problem names the path, never the content.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("{shown} is larger than a secret may be (64KiB)"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8"))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(secret.to_owned())
}

/// Whether a secret can come in a header at all: HTTP cuts white space around a header's value, and other characters
/// than ASCII have no agreed reading there.
pub(crate) fn check_header_text(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty; allowed are visible ASCII characters, at least one".to_owned());
    }
    if text.trim() != text || !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(format!(
            "contains white space around it or other characters than allowed: {HEADER_TEXT}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn only_the_line_ends_after_it_are_cut() {
        for (content, secret) in [
            ("s", "s"),
            ("s\n", "s"),
            ("s\r\n\n", "s"),
            (" s \n", " s "),
            ("a\nb\n", "a\nb"),
        ] {
            assert_eq!(read_file(file(content.as_bytes()).path()).unwrap(), secret);
        }
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named_but_not_told() {
        let large = vec![b'x'; MAX_SECRET_BYTES as usize + 1];
        for (content, problem) in [
            (&b"\n"[..], "is empty"),
            (b"\xffs3cret", "is not UTF-8"),
            (&large, "larger than"),
        ] {
            let file = file(content);
            let message = read_file(file.path()).unwrap_err();
            assert!(
                message.contains(problem) && message.contains(&file.path().display().to_string()),
                "{message}"
            );
            assert!(!message.contains("s3cret") && !message.contains("xxxx"));
        }
        assert_eq!(
            read_file(file(&large[1..]).path()).unwrap().len(),
            MAX_SECRET_BYTES as usize
        );
        assert!(
            read_file(Path::new("/nowhere/secret"))
                .unwrap_err()
                .starts_with("/nowhere/secret cannot be read")
        );
        assert!(
            read_file(Path::new("/"))
                .unwrap_err()
                .starts_with("/ cannot be read")
        );
    }

    #[test]
    fn what_a_header_can_carry() {
        for good in ["a", "a b", "~!@#", "Bearer abc=="] {
            assert_eq!(check_header_text(good), Ok(()));
        }
        for bad in ["", " a", "a ", "a\tb", "a\nb", "é", "\u{7f}"] {
            assert!(check_header_text(bad).is_err(), "{bad:?}");
        }
    }
}
