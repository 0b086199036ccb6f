// SPDX-License-Identifier: Apache-2.0

//! Links that are cut, healed and reset.

use slipway_proto::Digest;
use slipway_tests::link::Link;
use slipway_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::SILENCE_PERIOD;

/// An echo server.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("the port is known").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = client.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn connect(link: &Link) -> TcpStream {
    TcpStream::connect(link.address()).await.expect("links accept")
}

async fn send(connection: &mut TcpStream) {
    connection.write_all(b"ping").await.expect("links are open");
}

async fn comes_back(connection: &mut TcpStream) {
    let mut answer = [0; 4];
    let read = tokio::time::timeout(wait::SOON, connection.read_exact(&mut answer)).await;
    read.expect("in time").expect("it passes");
    assert_eq!(&answer, b"ping");
}

async fn nothing_comes(connection: &mut TcpStream) {
    let read = tokio::time::timeout(SILENCE_PERIOD, connection.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

async fn is_closed(connection: &mut TcpStream) {
    let read = tokio::time::timeout(wait::SOON, connection.read_u8()).await.expect("in time");
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_passes_nothing_and_heals() {
    let link = Link::to(&echo().await).await;
    let (mut old, mut idle) = (connect(&link).await, connect(&link).await);
    for connection in [&mut old, &mut idle] {
        send(connection).await;
        comes_back(connection).await;
    }

    link.cut();
    send(&mut old).await;
    nothing_comes(&mut old).await;
    let mut new = connect(&link).await;
    send(&mut new).await;
    nothing_comes(&mut new).await;

    link.heal();
    for connection in [&mut old, &mut idle, &mut new] {
        is_closed(connection).await;
    }
    let mut next = connect(&link).await;
    send(&mut next).await;
    comes_back(&mut next).await;
    link.heal();
    send(&mut next).await;
    comes_back(&mut next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_link_closes_connections_and_passes_new_ones() {
    let link = Link::to(&echo().await).await;
    let mut old = connect(&link).await;
    send(&mut old).await;
    comes_back(&mut old).await;
    link.reset();
    is_closed(&mut old).await;
    let mut new = connect(&link).await;
    send(&mut new).await;
    comes_back(&mut new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_passes_much_and_the_end_of_it() {
    let link = Link::to(&echo().await).await;
    let (mut from, mut to) = connect(&link).await.into_split();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let expected = Digest::of(&sent);
    let sender = tokio::spawn(async move {
        to.write_all(&sent).await.expect("it passes");
        to.shutdown().await.expect("it passes");
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.expect("it comes back");
    assert_eq!(Digest::of(&received), expected);
    sender.await.expect("it does not panic");
}
