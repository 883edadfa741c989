//! Passwords: made once, rotated when asked, and the users of `spec.auth`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::bed::Bed;
use super::objects::Key;
use super::server::Call;
use super::tls::{secret, text};

fn key(name: &str) -> Key {
    Key::new("/secrets", "shop", name)
}

fn there(bed: &Bed, name: &str) -> bool {
    bed.server.objects.lock().get(&key(name)).is_ok()
}

fn rotate(bed: &Bed, name: &str, word: &str) {
    let patch = json!({ "metadata": { "annotations": { "kvnode.dev/rotate": word } } });
    bed.server.objects.lock().merge(&key(name), &patch, false).expect("annotated");
}

fn word(bed: &Bed, name: &str) -> String {
    let annotations = secret(bed, name).metadata.annotations.unwrap_or_default();
    annotations.get("kvnode.dev/rotate").cloned().unwrap_or_default()
}

fn writes(bed: &Bed) -> Vec<Call> {
    bed.server.wire.calls().into_iter().filter(Call::is_write).collect()
}

fn users(users: &Value) -> Value {
    json!({ "auth": { "users": users } })
}

#[tokio::test]
async fn users_have_secrets_and_a_line_each_and_go_again() {
    let bed = Bed::new(&users(&json!([
        { "name": "app", "acl": "~app:*   +@all -@dangerous" }, { "name": "reporting", "acl": "+@read ~*" },
    ])));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let app = secret(&bed, "cart-user-app");
    assert_eq!(app.type_.as_deref(), Some("servicebinding.io/redis"));
    let password = text(&app, "password");
    assert_eq!(text(&app, "uri"), format!("rediss://app:{password}@cart.shop.svc:6380"));
    assert_ne!(password, text(&secret(&bed, "cart-user-reporting"), "password"));
    let file = text(&secret(&bed, "cart-acl"), "users.acl");
    let lines: Vec<&str> = file.lines().collect();
    assert!(
        lines[0].starts_with("user app on #") && lines[0].ends_with(" ~app:* +@all -@dangerous"),
        "{file}"
    );
    assert!(lines.len() == 2 && lines[1].starts_with("user reporting on #"), "{file}");
    assert!(!file.contains(&password) && !bed.state().concat().contains(&password), "only in its Secret");
    for operator in [operator.clone(), bed.operator(false)] {
        bed.server.wire.start(None);
        for _ in 0..3 {
            bed.pass(&operator).await.expect("a pass");
        }
        assert!(writes(&bed).is_empty(), "{:?}", writes(&bed));
    }
    // Who goes loses the line and the Secret; who stays keeps the password; what a user may do changes at once.
    bed.edit(&users(&json!([{ "name": "app", "acl": "+get" }])));
    bed.settle(&operator).await;
    let file = text(&secret(&bed, "cart-acl"), "users.acl");
    assert!(file.lines().count() == 1 && file.ends_with(" +get\n"), "{file}");
    assert!(!there(&bed, "cart-user-reporting"));
    assert_eq!(text(&secret(&bed, "cart-user-app"), "password"), password);
    // Who deletes the Secret gets another password at once.
    bed.server.objects.lock().delete(&key("cart-user-app"), &Value::Null).expect("deleted");
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_ne!(text(&secret(&bed, "cart-user-app"), "password"), password);
    assert_ne!(text(&secret(&bed, "cart-acl"), "users.acl"), file);
    // Rules that the server would refuse get nowhere near it.
    let file = text(&secret(&bed, "cart-acl"), "users.acl");
    bed.edit(&users(&json!([{ "name": "app", "acl": "+gett" }])));
    bed.pass(&operator).await.expect("a pass");
    assert_eq!(bed.condition("Stalled"), "True");
    assert_eq!(text(&secret(&bed, "cart-acl"), "users.acl"), file);
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_no_users() {
    let bed = Bed::new(&users(&json!([{ "name": "app", "acl": "+@read" }])));
    let theirs = json!({ "metadata": { "labels": { "app": "shop" } }, "data": {} });
    let before = bed.server.objects.lock().create(&key("cart-user-app"), theirs).expect("created");
    let operator = bed.operator(false);
    for _ in 0..3 {
        bed.pass(&operator).await.expect("a pass");
    }
    assert_eq!(bed.server.objects.lock().get(&key("cart-user-app")).expect("there"), before);
    assert!(bed.cluster()["status"].to_string().contains("Secret/cart-user-app"));
}

#[tokio::test]
async fn two_passwords_are_valid_while_one_takes_the_place_of_the_other() {
    let bed = Bed::new(&users(&json!([{ "name": "app", "acl": "+@read" }])));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    for name in ["cart-auth", "cart-user-app"] {
        let first = text(&secret(&bed, name), "password");
        let hashes = |bed: &Bed| text(&secret(bed, "cart-acl"), "users.acl").matches('#').count();
        rotate(&bed, name, "begin");
        Bed::minute(&operator);
        bed.settle(&operator).await;
        let both = secret(&bed, name);
        assert_eq!(text(&both, "password"), first, "handed out once every pod knows it");
        let second = text(&both, "passwords").lines().nth(1).expect("a second").to_owned();
        assert_eq!(text(&both, "passwords"), format!("{first}\n{second}\n"));
        assert_eq!(hashes(&bed), if name == "cart-auth" { 1 } else { 2 });
        bed.server.wire.start(None);
        bed.pass(&operator).await.expect("a pass");
        assert!(writes(&bed).is_empty(), "it waits: {:?}", writes(&bed));
        // Some minutes later.
        let began: Timestamp =
            word(&bed, name).strip_prefix("spreading ").expect("spreads").parse().expect("a time");
        rotate(&bed, name, &format!("spreading {}", began - SignedDuration::from_mins(4)));
        bed.settle(&operator).await;
        let moved = secret(&bed, name);
        assert_eq!(text(&moved, "password"), second);
        assert!(word(&bed, name).starts_with("moving "), "{}", word(&bed, name));
        assert!(text(&moved, "uri").contains(&format!(":{second}@")), "{}", text(&moved, "uri"));
        assert_eq!(text(&moved, "passwords"), format!("{second}\n{first}\n"), "nodes log in with the first");
        rotate(&bed, name, "finish");
        Bed::minute(&operator);
        bed.settle(&operator).await;
        assert_eq!(
            (text(&secret(&bed, name), "passwords"), word(&bed, name)),
            (format!("{second}\n"), String::new())
        );
        assert_eq!(hashes(&bed), 1);
        assert!(!bed.state().concat().contains(&second), "in its Secret, and nowhere else");
    }
    assert_eq!(bed.events().iter().filter(|reason| *reason == "PasswordRotating").count(), 6);
}

#[tokio::test]
async fn a_password_is_made_once_and_never_shown() {
    for (spec, scheme, port) in
        [(json!({ "tls": { "mode": "Disabled" } }), "redis", "6379"), (json!({}), "rediss", "6380")]
    {
        let bed = Bed::new(&spec);
        let operator = bed.operator(false);
        bed.settle(&operator).await;
        let auth = secret(&bed, "cart-auth");
        assert_eq!(auth.type_.as_deref(), Some("servicebinding.io/redis"));
        let password = text(&auth, "password");
        assert_eq!(password.len(), 32);
        assert_eq!(text(&auth, "uri"), format!("{scheme}://default:{password}@cart.shop.svc:{port}"));
        assert_eq!((text(&auth, "port").as_str(), text(&auth, "passwords")), (port, format!("{password}\n")));
        assert!(!bed.state().concat().contains(&password), "in its Secret, and nowhere else");
        // A person adds a line; nobody takes it away.
        let data = serde_json::to_value(k8s_openapi::ByteString(b"old\nnew\n".to_vec())).expect("bytes");
        let key = Key::new("/secrets", "shop", "cart-auth");
        bed.server
            .objects
            .lock()
            .merge(&key, &json!({ "data": { "passwords": data } }), false)
            .expect("merged");
        for operator in [operator, bed.operator(false)] {
            for _ in 0..3 {
                bed.pass(&operator).await.expect("a pass");
            }
        }
        assert_eq!(text(&secret(&bed, "cart-auth"), "passwords"), "old\nnew\n");
    }
}

#[tokio::test]
async fn a_new_password_is_handed_out_once_every_pod_says_that_it_has_read_it() {
    let bed = Bed::new(&users(&json!([{ "name": "app", "acl": "+@read" }])));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    for name in ["cart-auth", "cart-user-app"] {
        let read = || {
            let passwords = text(&secret(&bed, "cart-auth"), "passwords");
            (passwords, text(&secret(&bed, "cart-acl"), "users.acl"))
        };
        let first = text(&secret(&bed, name), "password");
        let before = read();
        bed.nodes.read_logins(&before.0, &before.1);
        rotate(&bed, name, "begin");
        Bed::minute(&operator);
        bed.settle(&operator).await;
        for _ in 0..3 {
            bed.pass(&operator).await.expect("a pass");
        }
        assert!(
            word(&bed, name).starts_with("spreading "),
            "the pods have the old files: {}",
            word(&bed, name)
        );
        assert_eq!(text(&secret(&bed, name), "password"), first);
        let now = read();
        assert_ne!(now, before);
        bed.nodes.read_logins(&now.0, &now.1);
        bed.settle(&operator).await;
        assert!(word(&bed, name).starts_with("moving "), "{}", word(&bed, name));
        assert_ne!(text(&secret(&bed, name), "password"), first);
        rotate(&bed, name, "finish");
        Bed::minute(&operator);
        bed.settle(&operator).await;
    }
}

#[tokio::test]
async fn passwords_change_by_themselves_where_the_spec_says_so() {
    let mut spec = users(&json!([{ "name": "app", "acl": "+@read" }]));
    spec["auth"]["rotation"] = json!({ "every": "30d", "overlap": "12h" });
    let bed = Bed::new(&spec);
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let ago = |hours: i64| (Timestamp::now() - SignedDuration::from_hours(hours)).to_string();
    let date = |name: &str, annotation: &str, value: &str| {
        let patch = json!({ "metadata": { "annotations": { annotation: value } } });
        bed.server.objects.lock().merge(&key(name), &patch, false).expect("annotated");
        Bed::minute(&operator);
    };
    for name in ["cart-auth", "cart-user-app"] {
        let first = text(&secret(&bed, name), "password");
        date(name, "kvnode.dev/password-since", &ago(29 * 24));
        bed.settle(&operator).await;
        assert_eq!(word(&bed, name), "", "not yet");
        date(name, "kvnode.dev/password-since", &ago(30 * 24));
        bed.settle(&operator).await;
        assert!(word(&bed, name).starts_with("spreading "));
        date(name, "kvnode.dev/rotate", &format!("spreading {}", ago(1)));
        bed.settle(&operator).await;
        assert!(word(&bed, name).starts_with("moving "));
        assert_ne!(text(&secret(&bed, name), "password"), first);
        date(name, "kvnode.dev/rotate", &format!("moving {}", ago(12)));
        bed.settle(&operator).await;
        assert_eq!(word(&bed, name), "");
        assert_eq!(text(&secret(&bed, name), "passwords").lines().count(), 1);
    }
    // The new ones are young.
    Bed::minute(&operator);
    bed.server.wire.start(None);
    bed.pass(&operator).await.expect("a pass");
    assert!(writes(&bed).is_empty(), "{:?}", writes(&bed));
}

#[tokio::test]
async fn where_the_door_is_opened_again_the_users_go() {
    let bed = Bed::new(&users(&json!([{ "name": "app", "acl": "+@read" }])));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    assert!(there(&bed, "cart-user-app"));
    bed.edit(&json!({ "auth": { "enabled": false, "users": null } }));
    bed.settle(&operator).await;
    assert!(!there(&bed, "cart-user-app"));
    assert_eq!(text(&secret(&bed, "cart-acl"), "users.acl"), "");
    assert_eq!(bed.cluster()["status"]["doors"]["auth"], "Open");
    bed.server.wire.start(None);
    bed.pass(&operator).await.expect("a pass");
    let calls = bed.server.wire.calls();
    assert!(calls.iter().all(|call| !call.path.contains("/secrets/cart-acl")), "it is over: {calls:?}");
}
