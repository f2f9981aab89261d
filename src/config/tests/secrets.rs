use super::*;
use secrecy::ExposeSecret;
use std::fs;

/// Stands for every secret; must never appear in an output.
const SECRET: &str = "hunter2-s3cret";

#[test]
fn secrets_come_inline_or_from_files() {
    let secret = temp_file(&format!("{SECRET}\n"));
    let path = secret.path();
    let config = load_valid(&format!(
        r#"
        [admin]
        username = "a"
        password_file = {path:?}
        [kafka.properties]
        "ssl.key.password" = "{SECRET}"
        [kafka.secret_files]
        "sasl.password" = {path:?}
        [dedup]
        store = "redis"
        redis_url = "rediss://:{SECRET}@host"
        [[auth.api_keys]]
        name = "a"
        header = "x"
        value_file = {path:?}
        [[auth.api_keys]]
        name = "b"
        header = "y"
        value = "{SECRET}"
        [[auth.basic]]
        name = "c"
        username = "u"
        password_file = {path:?}
        [[auth.basic]]
        name = "d"
        username = "v"
        password = "{SECRET}"
        "#
    ));
    let properties = &config.kafka.properties;
    for secret in [
        &config.admin.credentials.as_ref().unwrap().password,
        &properties["ssl.key.password"],
        &properties["sasl.password"],
        &config.auth.api_keys[0].value,
        &config.auth.api_keys[1].value,
        &config.auth.basic[0].password,
        &config.auth.basic[1].password,
    ] {
        assert_eq!(secret.expose_secret(), SECRET);
    }
    for output in [
        format!("{config:?}"),
        format!("{config:#?}"),
        format!("{:?}", config.clone()),
        config.warnings().join("\n"),
    ] {
        assert!(!output.contains(SECRET), "{output}");
    }
}

#[test]
fn no_error_contains_a_secret() {
    let secret = temp_file(SECRET);
    let path = secret.path();
    let with_nul = temp_file(&format!("{SECRET}\0"));
    for text in [
        // Syntax errors on the line with the secret.
        format!("[admin]\npassword = {SECRET}"),
        format!("[admin]\npassword = \"{SECRET}"),
        format!("[admin]\npassword = '{SECRET}' x"),
        format!("[admin]\npassword = '{SECRET}'\npassword = '{SECRET}'"),
        format!("[admin]\npassword = \"{SECRET}\\q\""),
        // Wrong types and shapes.
        format!("[admin]\nusername = 'a'\npassword = ['{SECRET}']"),
        format!("[admin]\nusername = 'a'\npassword = {{ value = '{SECRET}' }}"),
        format!("auth.api_keys = '{SECRET}'"),
        format!("auth.api_keys = ['{SECRET}']"),
        format!("admin = '{SECRET}'"),
        // Wrong characters, unknown and duplicate keys.
        format!("[admin]\nusername = 'a'\npassword = ' {SECRET}'"),
        format!("[admin]\nusername = 'a'\npasswort = '{SECRET}'"),
        format!("[admin]\nusername = 'a'\npassword = '{SECRET}'\npassword_file = {path:?}"),
        format!("[admin]\nusername = '{SECRET}:'\npassword = '{SECRET}'"),
        format!("[[auth.api_keys]]\nname = '{SECRET} '\nheader = '{SECRET}:'\nvalue = '{SECRET}é'"),
        // Messages of librdkafka.
        "kafka.properties.\"sasl.password\" = 'refused'".to_owned(),
        format!(
            "kafka.properties.\"sasl.password\" = '{SECRET}'\nkafka.secret_files.\"sasl.password\" = {path:?}"
        ),
        format!("kafka.secret_files.\"no.such.property\" = {path:?}"),
        format!("kafka.secret_files.\"client.id\" = {:?}", with_nul.path()),
        format!("kafka.properties.\"sasl.password\" = ['{SECRET}']"),
        format!(
            "kafka.properties.\"max.in.flight\" = '{SECRET}'\nkafka.bootstrap_servers = 'u:{SECRET}@h:1'"
        ),
    ] {
        let errors = load_errors(&text);
        assert!(
            !errors.contains(SECRET) && !errors.contains("refused\""),
            "{errors}"
        );
        assert!(!format!("{:?}", load_with(&text, &[]).unwrap_err()).contains(SECRET));
    }
    for (name, value) in [
        (
            "BUTLR_BRIDGE__AUTH__API_KEYS",
            format!("[{{name='a', header='x', value='{SECRET}]"),
        ),
        (
            "BUTLR_BRIDGE__AUTH__API_KEYS",
            format!("[{{name='a', header='x', value={SECRET}}}]"),
        ),
        ("BUTLR_BRIDGE__AUTH__API_KEYS", SECRET.to_owned()),
        ("BUTLR_BRIDGE__ADMIN", SECRET.to_owned()),
        ("BUTLR_BRIDGE__ADMIN__PASSWORD", format!("{SECRET}\u{fffd}")),
        ("BUTLR_BRIDGE__ADMIN__PASSWORT", SECRET.to_owned()),
        ("BUTLR_BRIDGE_ADMIN_PASSWORD", SECRET.to_owned()),
        (
            "BUTLR_BRIDGE__KAFKA__PROPERTIES",
            format!("{{\"sasl.password\" = \"{SECRET}}}"),
        ),
    ] {
        let errors = load_errors_with("", &[(name, &value)]);
        assert!(!errors.contains(SECRET), "{errors}");
    }
}

#[test]
fn a_secret_is_set_once() {
    let path = temp_file("x");
    assert_one_error(
        &format!(
            "[admin]\nusername = 'a'\npassword = 'b'\npassword_file = {:?}",
            path.path()
        ),
        "admin.password_file",
        "password is set too",
    );
    assert_one_error(
        &format!(
            "kafka.properties.\"sasl.password\" = 'a'\nkafka.secret_files.\"sasl.password\" = {:?}",
            path.path()
        ),
        "kafka.properties.\"sasl.password\"",
        "kafka.secret_files has it, too",
    );
}

#[test]
fn a_file_without_a_secret_is_an_error() {
    let empty = temp_file("\n\n");
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large");
    fs::write(&large, vec![b'x'; (64 << 10) + 1]).unwrap();
    for (path, problem) in [
        (empty.path(), "is empty"),
        (large.as_path(), "is larger than a secret may be (64KiB)"),
        (directory.path(), "cannot be read"),
        (&directory.path().join("none"), "cannot be read"),
    ] {
        let expected = format!("{} {problem}", path.display());
        assert_one_error(
            &format!("[admin]\nusername = 'a'\npassword_file = {path:?}"),
            "admin.password_file",
            &expected,
        );
        assert_one_error(
            &format!("kafka.secret_files.\"sasl.password\" = {path:?}"),
            "kafka.secret_files.\"sasl.password\"",
            &expected,
        );
    }
}
