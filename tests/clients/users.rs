//! Real clients that log in: as a user of an ACL file, and with the password of the default user.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::reference::Redis;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool;

use super::{node_script, passes, python_script, redis_cli};

const RULES: &str = "user default on nopass ~* &* +@all\nuser app on >pw ~app:* &news:* +@all -@dangerous\n";

/// One node whose configuration file has these keys; `{dir}` stands for the directory of the files.
async fn start(cluster: &mut Cluster, files: &[(&str, &str)], keys: &str) -> Result<String> {
    let dir = cluster.path().to_owned();
    for (name, text) in files {
        std::fs::write(dir.join(name), text)?;
    }
    let config = dir.join("config.yaml");
    std::fs::write(&config, keys.replace("{dir}", &dir.display().to_string()))?;
    cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
    cluster.add(None).await?;
    Ok(cluster.nodes[0].addr().to_owned())
}

fn as_user(make: impl Fn() -> Result<Option<Command>>) {
    let Some(_) = make().expect("the client can be installed") else { return };
    scenario(0, &[], async |cluster| {
        let make = || make()?.context("it was there a moment ago");
        let addr = start(cluster, &[("users.acl", RULES)], "acl_file: {dir}/users.acl\n").await?;
        let rules = cluster.path().join("users.acl");
        let rules = rules.to_str().context("the path is text")?;
        if let Some(redis) = Redis::start(&["--aclfile", rules]).await? {
            passes(make()?, &redis.addr).await.context("against redis-server")?;
        }
        passes(make()?, &addr).await.context("against ours")
    });
}

#[test]
fn redis_py_logs_in() {
    as_user(python_script("users.py"));
}

#[test]
fn ioredis_and_node_redis_log_in() {
    as_user(node_script("users.cjs"));
}

#[test]
fn the_redis_crate_and_redis_cli_log_in() {
    scenario(0, &[], async |cluster| {
        let files = [("passwords", "secret\n"), ("users.acl", "user app on >pw ~app:* +@all -@dangerous\n")];
        let keys = "requirepass_file: {dir}/passwords\nacl_file: {dir}/users.acl\nauth_failure_delay: 0\n";
        let addr = start(cluster, &files, keys).await?;
        for suffix in ["", "?protocol=resp3"] {
            for (login, key) in [(":secret", "any"), ("default:secret", "any"), ("app:pw", "app:1")] {
                let client = redis::Client::open(format!("redis://{login}@{addr}/{suffix}"))?;
                let mut connection = client.get_multiplexed_async_connection().await?;
                let () = redis::cmd("SET").arg(key).arg("v").query_async(&mut connection).await?;
                let value: String = redis::cmd("GET").arg(key).query_async(&mut connection).await?;
                ensure!(value == "v");
            }
            for login in ["", ":wrong@", "app:wrong@", "nobody:secret@"] {
                let client = redis::Client::open(format!("redis://{login}{addr}/{suffix}"))?;
                let refused = match client.get_multiplexed_async_connection().await {
                    Err(_) => true,
                    Ok(mut connection) => {
                        redis::cmd("GET").arg("any").query_async::<String>(&mut connection).await.is_err()
                    }
                };
                ensure!(refused, "{login:?} was let in");
            }
        }
        if tool::need("redis-cli").is_none() {
            return Ok(());
        }
        ensure!(redis_cli(&addr, &["-a", "secret", "--no-auth-warning", "GET", "any"]).await?.trim() == "v");
        let as_app = ["--user", "app", "--pass", "pw", "--no-auth-warning"];
        ensure!(redis_cli(&addr, &[&as_app[..], &["GET", "app:1"]].concat()).await?.trim() == "v");
        let refused = redis_cli(&addr, &[&as_app[..], &["GET", "any"]].concat()).await;
        let told = refused.unwrap_or_else(|error| format!("{error:#}"));
        ensure!(told.contains("NOPERM"), "{told}");
        Ok(())
    });
}
