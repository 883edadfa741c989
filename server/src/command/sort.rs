//! SORT and `SORT_RO`, for who sorts whatever a key holds: there are strings alone, so a key that exists is of the wrong type
//! and one that does not has no elements.

use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec, View,
};
use crate::store::Query;

const ROW: Spec = Spec {
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::DANGEROUS),
    keys: KeyRange::one(1, &["RO", "access"]),
    reply: ReplyShape::Array,
    group: Group::Generic,
    difference: "there are no lists or sets: WRONGTYPE for a key that exists, nothing for one that does not",
    ..Spec::ROW
};

pub(crate) static SORT: Spec = Spec {
    name: "SORT",
    since: "1.0.0",
    usage: "SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC|DESC] [ALPHA]",
    summary: "Returns the elements of a key in order: those of a missing key, which has none",
    difference: "there are no lists or sets: WRONGTYPE for a key that exists, nothing for one that does not; STORE is \
                 refused",
    parse: |args, context| sort(args, context, true),
    ..ROW
};

pub(crate) static SORT_RO: Spec = Spec {
    name: "SORT_RO",
    since: "7.0.0",
    usage: "SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC|DESC] [ALPHA]",
    summary: "The same as SORT",
    parse: |args, context| sort(args, context, false),
    ..ROW
};

fn sort(args: &mut Args<'_>, context: &Context, may_store: bool) -> Parsed {
    let key = args.bytes()?;
    while args.left() > 0 {
        if args.keyword("ASC") || args.keyword("DESC") || args.keyword("ALPHA") {
            continue;
        }
        if args.left() >= 3 && args.keyword("LIMIT") {
            args.int()?;
            args.int()?;
        } else if args.left() >= 2 && (args.keyword("BY") || args.keyword("GET")) {
            args.bytes()?;
        } else if args.left() >= 2 && may_store && args.keyword("STORE") {
            let text = "ERR SORT with STORE is not supported: there are no lists to store into";
            return Err(CommandError::Text(text.to_owned()));
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(Action::Read(Query::Type { db: context.db, key }, View::Sorted))
}
