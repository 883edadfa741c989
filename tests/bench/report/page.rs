//! The page: a report as one HTML file that refers to nothing outside.

use std::fmt::Write;

use super::svg::escape;
use super::{Block, Described, Report, Section};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;margin:2em auto;\
max-width:1100px;padding:0 1em}h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}\
td,th{border:1px solid #ccc;padding:2px 7px;text-align:right;white-space:nowrap}th{background:#f3f3f3}\
table.facts td{text-align:left;white-space:normal}pre{background:#f6f6f6;padding:.6em;overflow-x:auto;font-size:12px;\
white-space:pre-wrap;word-break:break-all}svg{width:100%;max-width:760px;height:auto;display:block;margin:1em 0;\
font:12px system-ui,sans-serif}";

/// What a reader must know before any figure.
const READING: [&str; 7] = [
    "Load generator, servers and all nodes share the cores, the memory and the disk of one machine. Absolute figures \
     say little about another one; ratios of systems that ran in turn in the same minutes say more, and are what this \
     report is for.",
    "Three nodes on one machine show what a command costs: CPU, context switches and syncs on all nodes together, and \
     the path of a commit through them. They do not show what three machines would do: there each node has cores and a \
     disk of its own, so that a cluster can be faster than here, and each commit crosses a network, so that its \
     latency is longer by at least a round trip. The trial of delayed links adds the round trips, not the cores.",
    "A disk that all nodes share serves their syncs one after another or merges them; both differ from three disks. A \
     virtual disk may answer a sync before anything is durable; the time of an fdatasync above lets a reader judge.",
    "One thread makes the load. Where a system is faster than it, the figure is that of the generator: one node and \
     redis with pipelines are near it. The generator's CPU also takes from the servers here, from all of them alike.",
    "RESP and gRPC differ: the client of etcd frames HTTP/2 and protobuf, which costs it and its generator more CPU. \
     That is what its users pay as well, but it is a property of the protocol.",
    "The closed loop of the cells hides stalls, since clients that wait do not send. The trials with an open loop \
     count each request from the moment at which it was due, whatever came before; those say what a user waits.",
    "The systems promise different things. kvnode and etcd: a majority has synced before the reply, reads are \
     linearizable. redis always: one copy, synced; redis memory: one copy, none on disk. A peer named by \
     KVNODE_BENCH_PEERS promises what its command line says.",
];

/// The whole page.
pub(super) fn html(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>kvnode bench {0}</title><style>{STYLE}</style></head><body>\
         <h1>kvnode bench, {0} UTC</h1><p>Made by <code>{1}</code>; every single run is in <a \
         href=\"results.jsonl\">results.jsonl</a>, one JSON object a line.</p>",
        report.began,
        escape(&report.command)
    );
    out.push_str("<h2>What this shows, and what it does not</h2><ul>");
    for paragraph in READING {
        // Writing into a String does not fail.
        let _ = write!(out, "<li>{}</li>", escape(paragraph));
    }
    out.push_str("</ul><h2>Machine</h2><table class=\"facts\">");
    for (name, value) in &report.machine.facts {
        fact(&mut out, name, value);
    }
    fact(&mut out, "sources of this program", &report.sources);
    out.push_str("</table>");
    if !report.environment.is_empty() {
        let _ = write!(out, "<p>Environment:</p><pre>{}</pre>", escape(&report.environment));
    }
    out.push_str("<h2>Systems</h2>");
    for system in &report.systems {
        describe(&mut out, system);
    }
    for section in &report.sections {
        write_section(&mut out, section);
    }
    out.push_str("</body></html>\n");
    out
}

fn fact(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
}

fn describe(out: &mut String, system: &Described) {
    let _ = write!(
        out,
        "<p><b>{}</b>: {}</p><pre>{}</pre>",
        escape(&system.name),
        escape(&system.version),
        escape(&system.command_lines.join("\n"))
    );
    if !system.configuration.is_empty() {
        let _ = write!(
            out,
            "<details><summary>configuration</summary><pre>{}</pre></details>",
            escape(&system.configuration)
        );
    }
}

fn write_section(out: &mut String, section: &Section) {
    let _ = write!(out, "<h2>{}</h2>", escape(&section.title));
    for block in &section.blocks {
        match block {
            Block::Text(text) => {
                let _ = write!(out, "<p>{}</p>", escape(text));
            }
            Block::Picture(svg) => out.push_str(svg),
            Block::Table { head, rows } => {
                let cells = |mark: &str, cells: &[String]| -> String {
                    let marked = cells.iter().map(|cell| format!("<{mark}>{}</{mark}>", escape(cell)));
                    marked.collect::<Vec<_>>().concat()
                };
                let _ = write!(out, "<table><tr>{}</tr>", cells("th", head));
                for row in rows {
                    let _ = write!(out, "<tr>{}</tr>", cells("td", row));
                }
                out.push_str("</table>");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_cells_mean_themselves() {
        let mut section = Section::new("a < b");
        section.note("x & y");
        section.table(vec!["<h>".into()], vec![vec!["\"q\"".into()]]);
        let mut out = String::new();
        write_section(&mut out, &section);
        assert_eq!(
            out,
            "<h2>a &lt; b</h2><p>x &amp; y</p><table><tr><th>&lt;h&gt;</th></tr><tr><td>&quot;q&quot;</td></tr></table>"
        );
    }
}
