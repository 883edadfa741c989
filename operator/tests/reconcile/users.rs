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

fn give(bed: &Bed, name: &str, key_name: &str, content: &[u8]) {
    let bytes = serde_json::to_value(k8s_openapi::ByteString(content.to_vec())).expect("bytes");
    let data = json!({ "data": { key_name: bytes } });
    let mut objects = bed.server.objects.lock();
    if objects.get(&key(name)).is_ok() {
        objects.merge(&key(name), &data, false).expect("changed");
    } else {
        objects.create(&key(name), data).expect("created");
    }
}

const GIVEN: &str = "first-Wort given";
const NEXT: &str = "zweites-Wort";

/// A cluster whose default password is in the Secret `given`.
fn bed_given() -> Bed {
    let mut spec = users(&json!([{ "name": "app", "acl": "+@read" }]));
    spec["auth"]["passwordSecret"] = json!({ "name": "given" });
    Bed::new(&spec)
}

fn told(bed: &Bed) -> String {
    bed.cluster()["status"]["conditions"].to_string()
}

/// Password that is handed out, and those that are valid.
fn auth(bed: &Bed) -> (String, String) {
    let auth = secret(bed, "cart-auth");
    (text(&auth, "password"), text(&auth, "passwords"))
}

fn read_all(bed: &Bed) {
    bed.nodes.read_logins(&auth(bed).1, &text(&secret(bed, "cart-acl"), "users.acl"));
}

#[tokio::test]
async fn a_password_that_somebody_else_keeps_is_handed_out() {
    let bed = bed_given();
    let operator = bed.operator(false);
    for (content, why) in [
        (None, "there is no Secret given"),
        (Some("zwei\nZeilen"), "one line of 1 to 512 bytes"),
        (Some("\n"), "one line of 1 to 512 bytes"),
    ] {
        if let Some(content) = content {
            give(&bed, "given", "key", content.as_bytes());
        }
        Bed::minute(&operator);
        for _ in 0..3 {
            bed.pass(&operator).await.expect_err("a fault");
        }
        let said = told(&bed);
        assert!(said.contains(why) && said.contains("ChangeRefused") && !said.contains("Zeilen"), "{said}");
        assert!(!there(&bed, "cart-auth"), "nothing is made up");
    }
    give(&bed, "given", "key", format!("{GIVEN}\n").as_bytes());
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(auth(&bed), (GIVEN.to_owned(), format!("{GIVEN}\n")));
    let uri = text(&secret(&bed, "cart-auth"), "uri");
    assert!(uri.contains(":first-Wort%20given@"), "{uri}");
    bed.server.wire.start(None);
    bed.pass(&operator).await.expect("a pass");
    assert!(writes(&bed).is_empty(), "{:?}", writes(&bed));
    // Another one: both are valid until the clients have moved.
    read_all(&bed);
    give(&bed, "given", "key", NEXT.as_bytes());
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(auth(&bed), (GIVEN.to_owned(), format!("{GIVEN}\n{NEXT}\n")), "not every pod has read it");
    read_all(&bed);
    bed.settle(&operator).await;
    assert_eq!(auth(&bed), (NEXT.to_owned(), format!("{NEXT}\n{GIVEN}\n")));
    rotate(&bed, "cart-auth", "finish");
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(auth(&bed).1, format!("{NEXT}\n"));
    let state = bed.state().concat();
    assert!(!state.contains("-Wort"), "in its Secrets, and nowhere else");
}

#[tokio::test]
async fn without_the_password_that_somebody_else_keeps_the_cluster_goes_on() {
    let bed = bed_given();
    let operator = bed.operator(false);
    give(&bed, "given", "key", GIVEN.as_bytes());
    bed.settle(&operator).await;
    read_all(&bed);
    give(&bed, "given", "key", NEXT.as_bytes());
    Bed::minute(&operator);
    bed.settle(&operator).await;
    bed.server.objects.lock().delete(&key("given"), &Value::Null).expect("deleted");
    bed.edit(&json!({ "replicas": 5 }));
    read_all(&bed);
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(bed.cluster()["status"]["ready"], "5/5", "it scales all the same");
    assert!(told(&bed).contains("there is no Secret given") && bed.condition("Stalled") == "True");
    assert_eq!(auth(&bed), (NEXT.to_owned(), format!("{NEXT}\n{GIVEN}\n")), "what was under way goes on");
    rotate(&bed, "cart-auth", "finish");
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(auth(&bed), (NEXT.to_owned(), format!("{NEXT}\n")), "a person is heard");
    give(&bed, "given", "key", NEXT.as_bytes());
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(bed.condition("Stalled"), "False");
}

#[tokio::test]
async fn authorities_of_clients_are_looked_at_before_a_pod_waits_for_them() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let sets = |bed: &Bed| {
        let set = Key::new("apps/statefulsets", "shop", "cart");
        bed.server.objects.lock().get(&set).expect("the set")["spec"]["template"].clone()
    };
    let before = sets(&bed);
    bed.edit(&json!({ "tls": { "clientAuth": { "secretName": "clients", "user": "CommonName" } } }));
    for (content, why) in
        [(None, "there is no Secret clients"), (Some("no PEM"), "ca.crt has no certificate")]
    {
        if let Some(content) = content {
            give(&bed, "clients", "ca.crt", content.as_bytes());
        }
        Bed::minute(&operator);
        for _ in 0..3 {
            bed.pass(&operator).await.expect_err("a fault");
        }
        assert_eq!(sets(&bed), before, "a pod that ends must be able to start again");
        let said = told(&bed);
        assert!(said.contains("spec.tls.clientAuth: ") && said.contains(why), "{said}");
    }
    let authority = kvnode_tests::pki::Authority::new("clients").expect("an authority");
    give(&bed, "clients", "ca.crt", authority.pem().as_bytes());
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!((bed.condition("Stalled").as_str(), bed.condition("Ready").as_str()), ("False", "True"));
    assert_ne!(sets(&bed), before);
    // Pods that have it go on without it.
    bed.server.objects.lock().delete(&key("clients"), &Value::Null).expect("deleted");
    bed.edit(&json!({ "replicas": 5 }));
    Bed::minute(&operator);
    bed.settle(&operator).await;
    assert_eq!(bed.cluster()["status"]["ready"], "5/5");
    assert!(told(&bed).contains("there is no Secret clients"));
}
