//! The exposition is well formed, every metric has a help text, names and labels keep to the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;

/// Families of an exposition: name to (has help, type, sample lines).
fn parse(text: &str) -> BTreeMap<String, (bool, String, Vec<String>)> {
    let mut families: BTreeMap<String, (bool, String, Vec<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            families.entry(name.into()).or_default().0 = !help.is_empty();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            families.entry(name.into()).or_default().1 = kind.into();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("value of {line}"));
            let name = series.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let family = base.filter(|b| families.contains_key(*b)).unwrap_or(name).to_owned();
            families.get_mut(&family).unwrap_or_else(|| panic!("{line} has no head")).2.push(line.to_owned());
        }
    }
    families
}

/// Touches every labelled metric, so that all families have a sample.
fn touch(metrics: &Metrics) {
    metrics.command_duration.with("GET").observe(Duration::from_micros(30));
    metrics.command_errors.with_label_values(&["GET"]).inc();
    metrics.command_rejected.with_label_values(&["GET"]).inc();
    metrics.error_replies.with_label_values(&["ERR"]).inc();
    metrics.raft_clock_offset.with_label_values(&["1f"]).set(0.5);
    metrics.clients_rejected.with_label_values(&["limit"]).inc();
    metrics.tls_certificate_expiry.with_label_values(&["peer"]).set(2e9);
    metrics.tls_certificate_stale.with_label_values(&["peer"]).set(0);
    metrics.tls_refused.with_label_values(&["peer"]).inc();
    metrics.set_role(&["leader", "follower"], "leader");
    metrics.raft_peer_lag.with_label_values(&["1f"]).set(1);
    metrics.raft_peer_diverged.with_label_values(&["1f"]).set(1);
    metrics.raft_peer_ack.with_label_values(&["1f"]).set(0.5);
    metrics.raft_proposal_errors.with_label_values(&["busy"]).inc();
    metrics.store_keys.with_label_values(&["0"]).set(1);
    metrics.store_expires.with_label_values(&["0"]).set(1);
    metrics.snapshots.with_label_values(&["ok"]).inc();
    metrics.checkpoints_sent.with_label_values(&["ok"]).inc();
    metrics.checkpoints_received.with_label_values(&["ok"]).inc();
    metrics.requests_denied.with_label_values(&["key"]).inc();
    metrics.users_reloads.with_label_values(&["ok"]).inc();
    metrics.http_requests.with_label_values(&["200"]).inc();
}

#[test]
fn the_exposition_holds_exactly_the_table_each_with_help_and_type() {
    let metrics = Metrics::new();
    touch(&metrics);
    let families = parse(&metrics.render().unwrap());
    assert_eq!(
        families.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        METRICS.iter().map(|spec| spec.name).collect::<BTreeSet<_>>()
    );
    for spec in METRICS {
        let (help, kind, samples) = &families[spec.name];
        assert!(*help, "{} has no help", spec.name);
        assert_eq!(kind, spec.kind, "{}", spec.name);
        assert!(!samples.is_empty());
        for sample in samples {
            assert_eq!(sample.contains(r#"group="0""#), spec.group, "{sample}");
            assert!(spec.labels.iter().all(|label| sample.contains(&format!("{label}=\""))), "{sample}");
        }
    }
}

#[test]
fn names_and_helps_keep_to_the_rules() {
    for spec in METRICS {
        assert!(spec.name.starts_with("kvnode_"), "{}", spec.name);
        assert!(spec.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", spec.name);
        assert_eq!(spec.name.ends_with("_total"), spec.kind == "counter", "{}", spec.name);
        assert!(spec.help.ends_with('.') && spec.help.len() > 5, "{}", spec.name);
        assert!(!spec.name.contains("_ms"), "{}: base units only", spec.name);
        let scoped = ["kvnode_raft_", "kvnode_log_", "kvnode_store_", "kvnode_snapshot", "kvnode_checkpoint"];
        assert!(
            !scoped.iter().any(|s| spec.name.starts_with(s)) || spec.group,
            "{} needs its group",
            spec.name
        );
    }
    assert_eq!(markdown().lines().count(), METRICS.len() + 2);
}

#[test]
fn a_latency_counts_into_the_inclusive_bucket_and_sums() {
    let metrics = Metrics::new();
    let get = metrics.command_duration.with("GET");
    for micros in [0, 25, 26, 1_000_000, 999_000_000] {
        get.observe(Duration::from_micros(micros));
    }
    get.observe(Duration::from_nanos(25_001));
    let text = metrics.render().unwrap();
    let line = |le: &str| {
        let start = format!("kvnode_command_duration_seconds_bucket{{command=\"GET\",le=\"{le}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("{start}")).to_owned()
    };
    assert_eq!(
        (line("0.000025"), line("0.00005"), line("1"), line("300"), line("+Inf")),
        ("2".into(), "4".into(), "5".into(), "5".into(), "6".into())
    );
    assert!(text.contains("kvnode_command_duration_seconds_count{command=\"GET\"} 6\n"));
    assert_eq!(get.count(), 6);
    assert_eq!(get.sum(), Duration::from_nanos(1_000_000_051_000 + 25_001));
}

#[test]
fn what_others_have_counted_is_taken_over_and_only_rises() {
    let metrics = Metrics::new();
    let set = metrics.command_duration.with("SET");
    let mut buckets = [0; BOUNDS_US.len() + 1];
    (buckets[0], buckets[BOUNDS_US.len()]) = (3, 1);
    for _ in 0..2 {
        set.raise(&buckets, Duration::from_secs(400));
    }
    assert_eq!((set.count(), set.sum()), (4, Duration::from_secs(400)));
    set.raise(&[0; BOUNDS_US.len() + 1], Duration::ZERO);
    assert_eq!((set.count(), set.sum()), (4, Duration::from_secs(400)));
}

#[test]
fn sources_are_asked_at_each_scrape_and_totals_only_rise() {
    struct Log(std::sync::atomic::AtomicU64);
    impl Scrape for Log {
        fn scrape(&self, metrics: &Metrics) {
            raise(&metrics.log_syncs, self.0.load(std::sync::atomic::Ordering::Relaxed));
        }
    }
    let metrics = Metrics::new();
    let log = Arc::new(Log(7.into()));
    metrics.register(log.clone());
    let syncs = |metrics: &Metrics| {
        let text = metrics.render().unwrap();
        text.lines().find_map(|l| l.strip_prefix("kvnode_log_syncs_total{group=\"0\"} ")).unwrap().to_owned()
    };
    assert_eq!(syncs(&metrics), "7");
    assert_eq!(syncs(&metrics), "7");
    log.0.store(9, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(syncs(&metrics), "9");
    log.0.store(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(syncs(&metrics), "9");
}

#[test]
fn the_process_is_measured() {
    let metrics = Metrics::new();
    let text = metrics.render().unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!(value("kvnode_process_resident_bytes") > 1e6);
    assert!(value("kvnode_process_open_files") >= 3.0);
    assert!(value("kvnode_process_threads") >= 1.0);
    assert!(text.contains(&format!("kvnode_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))));
}
