package authstore

import (
	"context"
	"time"
)

type claimKind uint8

const (
	claimTxn       claimKind = iota // a receive: never broken
	claimMany                       // GetManySessions: until PutManySessions
	claimSingle                     // GetSession outside a transaction: until PutSession
	claimExclusive                  // a delete or a migration: breaks sends
)

type claim struct {
	kind   claimKind
	gid    int64
	addrs  map[string]struct{}
	match  func(addr string) bool // claimExclusive: what it covers
	since  time.Time
	ctx    context.Context
	locked bool // its commit is under way: cannot be broken
}

func (c *claim) covers(addr string) bool {
	if c.match != nil {
		return c.match(addr)
	}
	_, ok := c.addrs[addr]
	return ok
}

// maxSendAge is beyond any wait for a prekey bundle: an older window was left
// behind by a send that failed.
const maxSendAge = 2 * time.Minute

// breakableAt is when kind may break other; zero is never.
func breakableAt(kind claimKind, other *claim, deadline time.Time) time.Time {
	switch {
	case other.kind == claimTxn || other.kind == claimExclusive:
		return time.Time{}
	case kind == claimExclusive, other.ctx != nil && other.ctx.Err() != nil:
		return other.since
	case kind == claimMany && other.kind == claimMany:
		return other.since // sends are serial: the other one is over
	case other.kind == claimSingle:
		// Nothing but computation stands between its read and its write.
		return earlier(deadline, other.since.Add(maxSingleAge))
	}
	return earlier(deadline, other.since.Add(maxSendAge))
}

const maxSingleAge = 3 * time.Second

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func toSet(addrs []string) map[string]struct{} {
	out := make(map[string]struct{}, len(addrs))
	for _, a := range addrs {
		out[a] = struct{}{}
	}
	return out
}

// overlap says whether two claims may want the same address. Two that match by
// pattern always may.
func overlap(a, b *claim) bool {
	if b.match != nil {
		a, b = b, a
	}
	if a.match != nil && b.match != nil {
		return true
	}
	for addr := range b.addrs {
		if a.covers(addr) {
			return true
		}
	}
	return false
}
