use tokio::io::AsyncWriteExt as _;

use super::*;

fn headers(kind: &str) -> Vec<(String, String)> {
    vec![("streamtype".into(), kind.into()), ("port".into(), "8080".into())]
}

/// Two streams are opened and answered; their header blocks share one state.
#[tokio::test]
async fn streams_are_opened_read_and_answered() {
    let (client, server) = tokio::io::duplex(64 << 10);
    let mut opened = serve(server);
    let (reader, mut writer) = tokio::io::split(client);
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    for (id, kind) in [(1, "error"), (3, "data")] {
        encoder.encode(&Frame::Open { id, headers: headers(kind), last: false }, &mut bytes);
    }
    encoder.encode(&Frame::Data { id: 3, last: true, data: "hello".into() }, &mut bytes);
    encoder.encode(&Frame::Ping { id: 7 }, &mut bytes);
    writer.write_all(&bytes).await.expect("written");

    let error = opened.recv().await.expect("first stream");
    assert_eq!(error.header("streamtype"), Some("error"));
    let mut data = opened.recv().await.expect("second stream");
    assert_eq!((data.header("streamtype"), data.header("port")), (Some("data"), Some("8080")));
    assert_eq!(data.receiver.recv().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(data.receiver.recv().await, None);
    data.sender.send("world".into()).await.expect("sent");
    data.sender.finish().await.expect("finished");

    let mut reader = std::pin::pin!(reader);
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(decoder.next(&mut reader).await.expect("reads").expect("a frame"));
    }
    for expected in [
        Frame::Reply { id: 1 },
        Frame::Reply { id: 3 },
        Frame::Ping { id: 7 },
        Frame::Data { id: 3, last: false, data: "world".into() },
        Frame::Data { id: 3, last: true, data: Bytes::new() },
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
}

#[tokio::test]
async fn broken_frames_end_the_connection() {
    for bytes in [
        &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1],
        &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
    ] {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut opened = serve(server);
        client.write_all(bytes).await.expect("written");
        assert!(opened.recv().await.is_none());
    }
}
