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
    json!({ "auth": { "enabled": true, "users": users } })
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
    assert_eq!(text(&app, "uri"), format!("redis://app:{password}@cart.shop.svc:6379"));
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
        assert_eq!((text(&moved, "password"), word(&bed, name)), (second.clone(), "moving".to_owned()));
        assert!(text(&moved, "uri").contains(&format!(":{second}@")), "{}", text(&moved, "uri"));
        assert_eq!(text(&moved, "passwords"), format!("{second}\n{first}\n"), "nodes log in with the first");
        rotate(&bed, name, "finish");
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
    for (spec, scheme, port) in [
        (json!({ "auth": { "enabled": true } }), "redis", "6379"),
        (json!({ "auth": { "enabled": true }, "tls": { "mode": "Managed" } }), "rediss", "6380"),
    ] {
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
