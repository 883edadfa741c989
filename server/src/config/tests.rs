//! Precedence, units, faults, derived defaults, the example file.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::units;
use super::*;

/// Settings from a file's text, an environment and flags. The file lives as long as the guard.
fn settings(
    yaml: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> (tempfile::NamedTempFile, Settings) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let settings = Settings {
        file: Some(file.path().to_owned()),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        memory_bytes: None,
    };
    (file, settings)
}

fn loaded(yaml: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Loaded {
    let (_file, settings) = settings(yaml, environment, flags);
    load(&settings).unwrap_or_else(|e| panic!("{e}"))
}

fn faults(yaml: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Vec<String> {
    let (file, settings) = settings(yaml, environment, flags);
    let name = file.path().display().to_string();
    let error = load(&settings).expect_err("the configuration is wrong");
    error.faults.iter().map(|fault| fault.to_string().replace(&name, "FILE")).collect()
}

/// Every key as text: configurations have no `PartialEq`, their texts do.
fn shown(config: &Config) -> Vec<(&'static str, String)> {
    KEYS.iter().map(|key| (key.name, key.show(config))).collect()
}

#[test]
fn nothing_set_gives_the_defaults() {
    let loaded = load(&Settings::default()).unwrap();
    assert_eq!(shown(&loaded.config), shown(&Config::default()));
    assert!(loaded.sources.is_empty() && loaded.notes.is_empty());
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let yaml = "clients_max: 1\nargs_max: 20\nsnapshots_keep: 3\n";
    let environment = [("KVNODE_ARGS_MAX", "30"), ("KVNODE_SNAPSHOTS_KEEP", "4"), ("OTHER", "x")];
    let loaded = loaded(yaml, &environment, &[("snapshots_keep", "5")]);
    assert_eq!(loaded.config.limits.clients_max, 1);
    assert_eq!(loaded.config.limits.args_max, 30);
    assert_eq!(loaded.config.snapshots_keep, 5);
    assert_eq!(loaded.config.databases, 16);
    assert_eq!(loaded.sources["snapshots_keep"], Source::Flag("--snapshots-keep".into()));
    assert_eq!(loaded.sources["args_max"], Source::Environment("KVNODE_ARGS_MAX".into()));
}

#[test]
fn an_empty_variable_is_not_set() {
    let loaded = loaded("databases: 3", &[("KVNODE_DATABASES", ""), ("KVNODE_ADVERTISE_ADDR", "")], &[]);
    assert_eq!((loaded.config.databases, loaded.config.advertise_addr), (3, None));
}

#[test]
fn the_environment_names_the_file() {
    let (file, mut settings) = settings("databases: 3", &[], &[]);
    settings.file = None;
    settings.environment = vec![("KVNODE_CONFIG".into(), file.path().display().to_string())];
    assert_eq!(load(&settings).unwrap().config.databases, 3);
}

#[test]
fn all_faults_come_together_with_key_source_value_and_range() {
    let yaml = "clients_maxx: 1\ndatabases: 0\nheartbeat: fast\nconsistency: {level: high}\n";
    let got = faults(yaml, &[("KVNODE_DURABILITY", "fsync")], &[("addr", ":4920")]);
    let want = [
        r#"unknown key "clients_maxx" in file FILE: did you mean clients_max?"#,
        r#"databases = "0" (file FILE) is wrong, out of range: allowed: a number, 1 to 255"#,
        r#"heartbeat = "fast" (file FILE) is wrong, needs a unit, such as 350ms or 5s: allowed: a duration, 1ms to 60s"#,
        "consistency (file FILE) is a section; all keys are at the top level: allowed: low, medium (or med), high",
        concat!(
            r#"durability = "fsync" (environment KVNODE_DURABILITY) is wrong, not one of the words: "#,
            "allowed: low, medium (or med), high"
        ),
        concat!(
            r#"addr = ":4920" (flag --addr) is wrong, has no host: write 127.0.0.1 for this machine, "#,
            "0.0.0.0 for every interface: allowed: host:port, off"
        ),
    ];
    assert_eq!(got, want);
}

#[test]
fn a_fault_of_a_lower_source_counts_even_if_a_flag_wins() {
    assert_eq!(faults("databases: many", &[], &[("databases", "2")]).len(), 1);
}

#[test]
fn what_is_no_mapping_is_one_fault() {
    assert!(faults("- a\n- b\n", &[], &[])[0].contains("is not a list of `key: value`"));
    assert!(faults("a: [", &[], &[])[0].contains("is not YAML"));
    assert!(faults("databases: 1\ndatabases: 2\n", &[], &[])[0].contains("duplicate"));
    let missing = Settings { file: Some(PathBuf::from("/nonexistent/kvnode.yaml")), ..Settings::default() };
    let fault = load(&missing).unwrap_err().to_string();
    assert!(fault.starts_with("configuration file /nonexistent/kvnode.yaml: No such file"), "{fault}");
    assert_eq!(shown(&loaded("", &[], &[]).config), shown(&Config::default()));
}

#[test]
fn an_environment_variable_near_a_key_is_noted_and_foreign_ones_are_not() {
    let environment =
        [("KVNODE_LOGDIR", "x"), ("KVNODE_SERVICE_HOST", "10.0.0.1"), ("KVNODE_PORT", "tcp://1")];
    let notes = loaded("", &environment, &[]).notes;
    assert_eq!(notes, ["environment KVNODE_LOGDIR is ignored: did you mean KVNODE_LOG_DIR?"]);
}

#[test]
fn lists_are_yaml_lists_or_commas() {
    let want = ["a:1".to_owned(), "b:2".to_owned()];
    assert_eq!(loaded("join: [\"a:1\", \"b:2\"]", &[], &[]).config.join, want);
    assert_eq!(loaded("", &[], &[("join", "a:1, b:2")]).config.join, want);
    assert_eq!(faults("", &[], &[("join", "a:1,b")]).len(), 1);
}

#[test]
fn ports_beside_the_client_port() {
    let config = loaded("", &[], &[("addr", "127.0.0.1:7000")]).config;
    assert_eq!((config.peer_addr.port(), config.http_addr.port()), (17_000, 27_000));
    let config = loaded("", &[], &[("addr", "127.0.0.1:0")]).config;
    assert_eq!((config.peer_addr.port(), config.http_addr.port()), (0, 0));
    let got = faults("", &[], &[("addr", "127.0.0.1:50000")]);
    assert_eq!(got, ["http_addr is not set, and its default 50000 + 20000 is no port: set http_addr"]);
    assert!(
        loaded("http_addr: 127.0.0.1:1", &[], &[("addr", "127.0.0.1:50000")]).config.http_addr.port() == 1
    );
    let got = faults("peer_addr: 127.0.0.1:4920", &[], &[]);
    assert!(got[0].ends_with("do not go together: each listener needs a port of its own"), "{got:?}");
}

#[test]
fn formation_follows_the_address() {
    assert_eq!(loaded("", &[], &[]).config.formation, Formation::Auto);
    let open = [("addr", "0.0.0.0:4920"), ("advertise_addr", "node-0.kv:4920")];
    let config = loaded("", &[], &open).config;
    assert_eq!(config.formation, Formation::Wait);
    assert_eq!(config.advertise_peer_addr.as_deref(), Some("node-0.kv:14920"));
    assert_eq!(loaded("formation: auto", &[], &open).config.formation, Formation::Auto);
    assert!(faults("", &[], &[("addr", "0.0.0.0:4920")])[0].contains("set advertise_addr"));
}

#[test]
fn log_dir_follows_data() {
    assert_eq!(loaded("data: d", &[], &[]).config.log_dir, PathBuf::from("d"));
    assert_eq!(loaded("data: d\nlog_dir: l", &[], &[]).config.log_dir, PathBuf::from("l"));
}

#[test]
fn relations_name_both_keys_and_where_they_were_set() {
    let got = faults("heartbeat: 200ms", &[], &[]);
    assert_eq!(
        got,
        [concat!(
            "heartbeat = 200ms (file FILE) and election_timeout_min = 200ms (default) do not go together: ",
            "the election timeout must cover three heartbeats: raise election_timeout_min or lower heartbeat"
        )]
    );
    assert_eq!(faults("election_timeout_max: 150ms", &[], &[]).len(), 1);
    assert_eq!(faults("join: \"a:1\"\nrestore: f", &[], &[]).len(), 1);
    // A founder without its backup must not begin empty.
    assert!(faults("restore: f\nrestore_missing: wait", &[], &[])[0].contains("set formation to wait"));
    loaded("restore: f\nrestore_missing: wait\nformation: wait", &[], &[]);
}

#[test]
fn small_memory_bounds_the_default_caches_only() {
    let mut small = Settings { memory_bytes: Some(256 << 20), ..Settings::default() };
    let limits = load(&small).unwrap().config.limits;
    assert_eq!((limits.memtable_bytes, limits.block_cache_bytes), (16 << 20, 64 << 20));
    assert_eq!(limits.value_cache_bytes, 32 << 20);
    small.flags = vec![("block_cache_bytes", "128MiB".into())];
    assert_eq!(load(&small).unwrap().config.limits.block_cache_bytes, 128 << 20);
    let large = Settings { memory_bytes: Some(1 << 40), ..Settings::default() };
    assert_eq!(load(&large).unwrap().config.limits.block_cache_bytes, 256 << 20);
}

#[test]
fn units_read_and_show() {
    for (text, want) in
        [("0", 0), ("4096", 4096), ("64KiB", 65_536), ("10Gi", 10 << 30), ("1MB", 1_000_000), ("7 B", 7)]
    {
        assert_eq!(units::bytes(text), Ok(want), "{text}");
    }
    for text in ["", "MiB", "-1", "1.5GiB", "1mib", "1 2", "99999999999999999999", "18446744073709551615KiB"]
    {
        assert!(units::bytes(text).is_err(), "{text}");
    }
    assert_eq!(units::duration("350ms"), Ok(Duration::from_millis(350)));
    assert_eq!(units::duration("2m"), Ok(Duration::from_mins(2)));
    for text in ["", "5", "ms", "-1s", "1.5s", "18446744073709551615h"] {
        assert!(units::duration(text).is_err(), "{text}");
    }
    for value in [0, 1, 1023, 1024, 65_536, 3 << 20, 1 << 40] {
        assert_eq!(units::bytes(&units::show_bytes(value)), Ok(value));
    }
    for micros in [0, 1, 999, 1000, 350_000, 1_000_000, 3_600_000_000] {
        let value = Duration::from_micros(micros);
        assert_eq!(units::duration(&units::show_duration(value)), Ok(value));
    }
}

#[test]
fn addresses() {
    assert_eq!(units::listen_addr("[::1]:5").unwrap().port(), 5);
    assert!(units::listen_addr("localhost:5").unwrap().ip().is_loopback());
    for wrong in ["", "5", ":5", "localhost:", "localhost:65536", "localhost"] {
        assert!(units::listen_addr(wrong).is_err(), "{wrong}");
    }
    for right in ["a:1", "node-0.kv.svc:6379", "127.0.0.1:65535", "[::1]:4920"] {
        assert_eq!(units::dial_addr(right), Ok(right.to_owned()));
    }
    for wrong in ["a", ":1", "a:0", "a:65536", "a:b", "0.0.0.0:1", "[::]:1", "a b:1", "a\n:1", "::1:1"] {
        assert!(units::dial_addr(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn keys_are_unique_and_every_limit_has_one() {
    let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    // The debug text of the struct names every field: a field without a key would be unreachable from the file.
    let text = format!("{:#?}", Config::default());
    let fields = text.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name);
    // Sections, what `addr` says as well, and the files, whose keys have the name of their use in front.
    let sections = ["timing", "limits", "tls", "tls_only", "clients", "peers", "http"];
    let files = ["cert", "key", "ca", "client_auth", "client_user"];
    for field in fields.filter(|f| !sections.contains(f) && !files.contains(f)) {
        assert!(Key::find(field).is_some(), "field {field} has no key");
    }
}

#[test]
fn the_example_file_is_fresh_and_means_the_defaults() {
    let example = example_yaml();
    assert_eq!(
        include_str!("../../config.example.yaml"),
        example,
        "regenerate: kvnode-server config-example > server/config.example.yaml"
    );
    assert_eq!(shown(&loaded(&example, &[], &[]).config), shown(&Config::default()));
    let uncommented: Vec<_> =
        example.lines().map(|l| if l.starts_with("# ") { l } else { l.trim_start_matches('#') }).collect();
    let config = loaded(&uncommented.join("\n"), &[], &[]);
    assert_eq!(shown(&config.config), shown(&Config::default()));
    assert!(config.sources.len() > KEYS.len() / 2, "most keys are set in the example");
}

#[test]
fn tls_alone_takes_the_place_of_the_plain_listener() {
    let files = "tls_cert_file: /c\ntls_key_file: /k\n";
    let config = loaded(&format!("addr: off\ntls_addr: 127.0.0.1:6380\n{files}"), &[], &[]).config;
    assert!(config.tls_only);
    assert_eq!(config.addr, config.tls_addr.unwrap());
    assert_eq!((config.peer_addr.port(), config.http_addr.port()), (16380, 26380));
    assert_eq!(Key::find("addr").unwrap().show(&config), "off");
    let config = loaded(&format!("tls_addr: 127.0.0.1:6380\n{files}"), &[], &[]).config;
    assert!(!config.tls_only);
    assert_eq!(config.addr.port(), 4920);
    assert_eq!(faults("addr: off\n", &[], &[]), ["addr = off leaves no address for clients: set tls_addr"]);
}

#[test]
fn tls_settings_that_do_not_go_together_are_told() {
    for (yaml, remedy) in [
        ("tls_addr: 127.0.0.1:6380\n", "set both files"),
        ("tls_cert_file: /c\n", "set both files"),
        ("tls_client_auth: require\n", "set tls_client_ca_file"),
        ("tls_client_auth_user: cn\n", "tls_client_auth to optional or require"),
        ("peer_tls: required\npeer_tls_cert_file: /c\npeer_tls_key_file: /k\n", "set all three files"),
        ("http_tls_client_ca_file: /ca\n", "set http_tls_cert_file and http_tls_key_file"),
        ("tls_addr: 127.0.0.1:4920\ntls_cert_file: /c\ntls_key_file: /k\n", "a port of its own"),
    ] {
        let faults = faults(yaml, &[], &[]);
        assert!(faults.len() == 1 && faults[0].contains(remedy), "{yaml}: {faults:?}");
    }
}
