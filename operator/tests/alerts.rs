//! Every metric that an alert rule or a dashboard names is one that a program of ours exports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words that begin like a metric.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("kvnode_") && word.len() > "kvnode_".len())
        .map(str::to_owned)
        .collect()
}

/// What the declarations say. Read from the source, because a metric with labels is not in the output before its first
/// value.
fn declared() -> BTreeSet<String> {
    let mut found = names(&text("server/src/metrics.rs"));
    let folder = repository().join("server/src/metrics");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.extend(names(&fs::read_to_string(entry.path()).unwrap_or_default()));
    }
    let operator = text("operator/src/metrics.rs");
    for kind in ["to.counter(", "to.counters(", "to.gauge(", "to.seconds("] {
        for declaration in operator.split(kind).skip(1) {
            let name = declaration.split('"').nth(1).unwrap_or_default();
            found.insert(format!("kvnode_operator_{name}"));
        }
    }
    found.insert("kvnode_operator_build_info".into());
    found
}

#[test]
fn alerts_and_dashboards_name_real_metrics() {
    let declared = declared();
    assert!(declared.len() > 50, "{declared:#?}");
    for file in ["deploy/alerts.yaml", "deploy/dashboards/cluster.json", "deploy/dashboards/operator.json"] {
        let used = names(&text(file));
        assert!(used.len() >= 8, "{file} names only {used:?}");
        for name in used {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = declared.contains(&name) || base.is_some_and(|base| declared.contains(base));
            assert!(known, "{file} names {name}, which nobody exports");
        }
    }
}

#[test]
fn every_alert_names_a_recipe_of_the_runbook_and_has_a_test() {
    let (rules, tests, runbook) =
        (text("deploy/alerts.yaml"), text("deploy/alerts_test.yaml"), text("deploy/README.md"));
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 14, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        let recipe =
            alert.split("recipe ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
        assert!(runbook.contains(&format!("\n## {recipe}. ")), "{name} names recipe {recipe:?}");
        let head = format!("alertname: {name}\n");
        let mut played = tests.split(&head).skip(1).filter_map(|rest| rest.split("alertname:").next());
        assert!(played.any(|rest| rest.contains("exp_alerts")), "{name} never fires in alerts_test.yaml");
    }
}
