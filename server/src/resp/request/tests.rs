//! What the decoder takes and refuses, at every cut of the stream.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{DecoderLimits, ProtocolError, Request, RequestDecoder};

const LIMITS: DecoderLimits = DecoderLimits {
    args_max: 1024 * 1024,
    bulk_bytes_max: 64 * 1024 * 1024,
    request_bytes_max: 128 * 1024 * 1024,
    inline_bytes_max: 64 * 1024,
    before_login: false,
};

/// Decodes the pieces as they arrive; what was decoded, and the error that ended it.
fn feed<'a>(
    decoder: &mut RequestDecoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Request>, Option<ProtocolError>) {
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    for piece in pieces {
        buffer.put_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn request(args: &[&[u8]]) -> Request {
    Request { args: args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect() }
}

/// Feeds the input whole and byte by byte, and demands the same.
fn decode(limits: DecoderLimits, input: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
    let whole = feed(&mut RequestDecoder::new(limits), [input]);
    let by_byte = feed(&mut RequestDecoder::new(limits), input.chunks(1));
    assert_eq!(whole, by_byte, "{}", input.escape_ascii());
    whole
}

#[test]
fn decodes_arrays_and_lines() {
    let cases: &[(&[u8], Vec<Request>)] = &[
        (b"*1\r\n$4\r\nPING\r\n", vec![request(&[b"PING"])]),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", vec![request(&[b"GET", b""])]),
        (b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n*1\r\n", vec![request(&[b"ECHO", b"\r\n*1"])]),
        (b"PING\r\nPING\n", vec![request(&[b"PING"]), request(&[b"PING"])]),
        (
            b"SET k \"a b\"\r\n*1\r\n$4\r\nQUIT\r\n",
            vec![request(&[b"SET", b"k", b"a b"]), request(&[b"QUIT"])],
        ),
        (b"\r\n\n  \r\n*0\r\n*-1\r\n*-77\r\nPING\r\n", vec![request(&[b"PING"])]),
        (b"*1\r\n$0\r\n\r\n", vec![request(&[b""])]),
    ];
    for (input, expected) in cases {
        assert_eq!(decode(LIMITS, input), (expected.clone(), None), "{}", input.escape_ascii());
    }
}

#[test]
fn refuses_malformed_frames_with_the_words_of_redis() {
    let cases: &[(&[u8], &str)] = &[
        (b"*\r\n", "invalid multibulk length"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"* 1\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*1\n", "invalid multibulk length"),
        (b"*1000000000\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*9223372036854775808\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$4\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"*1\r\n$67108865\r\n", "invalid bulk length"),
        (b"*1\r\n$4\r\nPINGxx", "invalid bulk length"),
        (b"*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n\xff", "expected '$', got '?'"),
        (b"ECHO \"a\r\n", "unbalanced quotes in request"),
        (b"ECHO 'a'b\r\n", "unbalanced quotes in request"),
    ];
    for (input, text) in cases {
        let (requests, error) = decode(LIMITS, input);
        assert_eq!(requests, vec![], "{}", input.escape_ascii());
        assert_eq!(error, Some(ProtocolError((*text).to_owned())), "{}", input.escape_ascii());
    }
    assert_eq!(ProtocolError("x".to_owned()).to_string(), "ERR Protocol error: x");
}

#[test]
fn requests_before_a_malformed_frame_stand() {
    let (requests, error) = decode(LIMITS, b"PING\r\n*1\r\n$4\r\nPING\r\n*x\r\nPING\r\n");
    assert_eq!(requests.len(), 2);
    assert_eq!(error, Some(ProtocolError("invalid multibulk length".to_owned())));
}

#[test]
fn limits_are_inclusive() {
    let limits = DecoderLimits {
        args_max: 2,
        bulk_bytes_max: 4,
        request_bytes_max: 22,
        inline_bytes_max: 8,
        before_login: false,
    };
    let error = |input: &[u8]| decode(limits, input).1.map(|error| error.0);
    assert_eq!(error(b"*3\r\n"), Some("invalid multibulk length".to_owned()));
    assert_eq!(error(b"*1\r\n$5\r\n"), Some("invalid bulk length".to_owned()));
    assert_eq!(
        error(b"*2\r\n$4\r\nabcd\r\n$4\r\nabcd\r\n"),
        None,
        "22 bytes up to the end of the last argument"
    );
    let tight = DecoderLimits { request_bytes_max: 21, ..limits };
    assert_eq!(
        decode(tight, b"*2\r\n$4\r\nabcd\r\n$4\r\n").1,
        Some(ProtocolError("too big request".to_owned()))
    );
    assert_eq!(error(b"PING   \r\n"), None, "8 bytes before the line feed");
    assert_eq!(error(b"PING    \r\n"), Some("too big inline request".to_owned()));
    assert_eq!(error(b"123456789"), Some("too big inline request".to_owned()));
    assert_eq!(error(b"*11111111"), Some("too big mbulk count string".to_owned()));
    assert_eq!(error(b"*1\r\n$11111111"), Some("too big bulk count string".to_owned()));
    assert_eq!(error(b"a b c\r\n"), Some("invalid multibulk length".to_owned()));
}

#[test]
fn announced_counts_and_lengths_reserve_nothing() {
    let mut decoder = RequestDecoder::new(LIMITS);
    let mut buffer = BytesMut::from(&b"*1048576\r\n$67108864\r\nabc"[..]);
    let capacity_bytes = buffer.capacity();
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert!(decoder.held_bytes() < 1024, "{} bytes", decoder.held_bytes());
    assert!(buffer.capacity() <= capacity_bytes);
}

#[test]
fn depth_costs_no_stack() {
    let (requests, error) = decode(LIMITS, &b"*1\r\n".repeat(10_000));
    assert_eq!(requests, vec![]);
    assert_eq!(error, Some(ProtocolError("expected '$', got '*'".to_owned())));
}

#[test]
fn a_request_of_100_000_arguments_in_pieces_is_searched_once() {
    let mut input = BytesMut::from(&b"*100001\r\n$3\r\nDEL\r\n"[..]);
    for key in 0..100_000 {
        let key = format!("key:{key}");
        input.put_slice(format!("${}\r\n{key}\r\n", key.len()).as_bytes());
    }
    let mut decoder = RequestDecoder::new(LIMITS);
    let (requests, error) = feed(&mut decoder, input.chunks(16 * 1024));
    assert_eq!((requests.len(), error), (1, None));
    assert_eq!(requests[0].args.len(), 100_001);
    assert_eq!(requests[0].args[100_000], "key:99999");
    assert!(decoder.searched_total <= input.len(), "{} of {}", decoder.searched_total, input.len());
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn a_large_argument_in_pieces_is_not_searched() {
    let length = 8 * 1024 * 1024;
    let mut input = BytesMut::from(format!("*2\r\n$4\r\nECHO\r\n${length}\r\n").as_bytes());
    input.put_bytes(b'\n', length);
    input.put_slice(b"\r\n");
    let mut decoder = RequestDecoder::new(LIMITS);
    let (requests, error) = feed(&mut decoder, input.chunks(16 * 1024));
    assert_eq!((requests.len(), error), (1, None));
    assert_eq!(requests[0].args[1].len(), length);
    assert!(decoder.searched_total < 64, "{} bytes", decoder.searched_total);
}

#[test]
fn a_long_line_in_pieces_is_searched_once() {
    let input = [b"ECHO ".as_slice(), &b"x".repeat(60_000), b"\n"].concat();
    let mut decoder = RequestDecoder::new(LIMITS);
    let (requests, error) = feed(&mut decoder, input.chunks(7));
    assert_eq!((requests.len(), error), (1, None));
    assert!(decoder.searched_total <= input.len());
}

/// One frame as a client could send it, and what it decodes to.
fn frame() -> impl Strategy<Value = (Vec<u8>, Option<Request>)> {
    let array = vec(vec(any::<u8>(), 0..40), 1..6).prop_map(|args| {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in &args {
            bytes.put_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.put_slice(arg);
            bytes.put_slice(b"\r\n");
        }
        (bytes, Some(Request { args: args.into_iter().map(Bytes::from).collect() }))
    });
    let line = (vec(vec(any::<u8>(), 0..20), 1..5), any::<bool>()).prop_map(|(args, crlf)| {
        let quoted: Vec<String> = args
            .iter()
            .map(|arg| {
                let hex = arg.iter().map(|byte| format!("\\x{byte:02x}")).collect::<Vec<_>>().concat();
                format!("\"{hex}\"")
            })
            .collect();
        let end = if crlf { "\r\n" } else { "\n" };
        let bytes = format!("{}{end}", quoted.join(" ")).into_bytes();
        (bytes, Some(Request { args: args.into_iter().map(Bytes::from).collect() }))
    });
    let nothing = prop_oneof![Just("\r\n"), Just("\n"), Just(" \t\r\n"), Just("*0\r\n"), Just("*-1\r\n")]
        .prop_map(|bytes| (bytes.as_bytes().to_vec(), None));
    prop_oneof![6 => array, 3 => line, 1 => nothing]
}

/// `input` cut at the given places.
fn cut<'a>(input: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in ends {
        pieces.push(&input[start..end]);
        start = end;
    }
    pieces
}

/// Bytes that look enough like the protocol to get deep into the decoder.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\\x".to_vec()),
        (-3i64..12).prop_map(|number| number.to_string().into_bytes()),
        (0usize..6).prop_map(|count| format!("*{count}\r\n").into_bytes()),
        (0usize..6).prop_map(|length| format!("${length}\r\n").into_bytes()),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        vec(any::<u8>(), 0..8),
    ];
    vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn any_cut_of_a_pipeline_decodes_the_same(
        frames in vec(frame(), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let input: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<Request> = frames.into_iter().filter_map(|(_, request)| request).collect();
        let mut decoder = RequestDecoder::new(LIMITS);
        let decoded = feed(&mut decoder, cut(&input, &cuts));
        prop_assert_eq!(decoded, (expected, None));
        prop_assert!(decoder.searched_total <= input.len());
        prop_assert!(!decoder.is_mid_request(&[]));
    }

    #[test]
    fn any_bytes_are_bounded_and_decode_the_same_at_any_cut(
        input in noise(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let limits = DecoderLimits { args_max: 9, bulk_bytes_max: 16, request_bytes_max: 48, inline_bytes_max: 32, before_login: false };
        let whole = feed(&mut RequestDecoder::new(limits), [input.as_slice()]);
        let mut decoder = RequestDecoder::new(limits);
        let cut = feed(&mut decoder, cut(&input, &cuts));
        prop_assert_eq!(&whole, &cut);
        prop_assert!(decoder.taken_bytes <= limits.request_bytes_max + 64);
        prop_assert!(decoder.args.capacity() <= 16);
        for request in whole.0 {
            prop_assert!(!request.args.is_empty() && request.args.len() <= limits.args_max);
            prop_assert!(request.args.iter().all(|arg| arg.len() <= limits.inline_bytes_max));
        }
    }
}
