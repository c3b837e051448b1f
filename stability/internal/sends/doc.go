// Package sends keeps the book of sent messages: which were acknowledged,
// refused, or not answered, and whether the connection is mute.
//
// A send is noted when it goes out, and waits. It ends in one of three ways:
//
//	acknowledged  an <ack class="message"> without an error came
//	refused       one with an error came
//	unanswered    neither came within Policy.AnswerAfter, or its connection
//	              ended before
//
// An answer may come late, or on the next connection: whatsmeow may send a
// message again by itself when its connection is back within seconds. So an
// unanswered send is remembered for a while: a late answer takes it out of the
// unanswered ones and counts in their place.
//
// # Mute
//
// A connection is mute when Policy.Row sends in a row, to Policy.Recipients
// different recipients at least, were refused or not answered while it was up.
// One that is acknowledged ends the row. These do not count for a row:
//
//   - a send whose connection ended before its answer, or that went out while
//     there was none;
//   - an unanswered send on a link on which nothing else came either: the link
//     is dead then, and that is found out by other means.
//
// Code 463 refuses chats that are new to the account. A row of nothing else is
// not mute while others are acknowledged (within the last Policy.OthersWithin),
// unless one of its recipients had been acknowledged before: then existing
// chats are refused too.
//
// # Bounds
//
// At most Policy.Max sends are remembered, waiting and unanswered ones
// together. Beyond that the oldest is forgotten: an unanswered one silently, a
// waiting one as unanswered. Recipients are kept as hashes.
//
// The package is pure: no goroutine, lock, I/O or clock. A Book is not safe for
// concurrent use.
package sends
