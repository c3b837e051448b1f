package authstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The commit pipeline of one device. Commits are serial, so memory is always
// what the disk is, plus what is marked dirty. A write is durable before it is
// applied to memory and before its caller goes on. Writes that wait at the same
// moment share a round trip; writes that may wait ride along.

// request is one write that waits for its durability.
type request struct {
	op      string
	changes []change
	raw     Batch // beside the tables: quarantined rows, purges
	turn    uint64
	done    chan error
	err     error
}

// submit makes changes durable, then visible.
func (s *deviceStore) submit(op string, changes []change, raw Batch) error {
	if err := s.gate.check(op); err != nil {
		return err
	}
	r := &request{op: op, changes: changes, raw: raw, done: make(chan error, 1)}
	s.mu.Lock()
	s.queue.add(r)
	s.mu.Unlock()
	for {
		select {
		case err := <-r.done:
			return err
		case s.commitSem <- struct{}{}:
		}
		s.lead()
		<-s.commitSem
	}
}

// lead commits what waits. The caller holds commitSem.
func (s *deviceStore) lead() {
	s.mu.Lock()
	reqs := s.queue.take()
	s.mu.Unlock()
	if len(reqs) == 0 {
		return
	}
	err := s.commitTogether(reqs, true, true)
	if err != nil && s.gate.check(reqs[0].op) == nil {
		// Permanent, so somebody's own fault, or too much for one batch:
		// each for itself, and the riders last.
		if errors.Is(err, errTooMuch) {
			// Nobody's fault: the riders first. An identity and a sent message
			// are not later than the session that they belong to.
			_ = s.commitTogether(nil, true, false) // those that are refused come again below
		}
		for _, r := range reqs {
			write := func() error { return s.commitTogether([]*request{r}, false, false) }
			if r.err = write(); r.err != nil {
				r.err = s.overStuck(r.err, write)
			}
			if r.err != nil {
				s.takeOffRefused(r.changes)
			}
		}
		err = s.commitTogether(nil, true, false)
		if err != nil && s.gate.check(reqs[0].op) == nil {
			s.flushAlone()
			err = s.gate.check(reqs[0].op) // the term may have ended on the way
		}
		for _, r := range reqs {
			if r.err == nil && len(r.changes) == 0 {
				r.err = err
			}
		}
	} else {
		for _, r := range reqs {
			r.err = err
		}
	}
	s.mu.Lock()
	s.queue.forgetLate()
	s.mu.Unlock()
	for _, r := range reqs {
		r.done <- r.err
	}
}

// errTooMuch: the requests together do not fit into one batch.
var errTooMuch = fmt.Errorf("%w: together", ErrTooLarge)

// commitTogether writes reqs, with or without riders, in one batch if oneBatch
// is set. A single request that is too large for that is written in several.
func (s *deviceStore) commitTogether(reqs []*request, riders, oneBatch bool) error {
	op := "flush"
	if len(reqs) > 0 {
		op = reqs[0].op
	}
	s.mu.Lock()
	begun := s.queue.turn
	changes := make(map[logicalID]change)
	rows := make(map[row]struct{})
	var raw Batch
	for _, r := range reqs {
		for _, c := range r.changes {
			if c.table == tSeen && c.bucket == "" {
				c.bucket = s.im.seenAt[c.id]
			}
			if s.queue.deferredSince(logicalID{c.table, c.id}, r.turn) { // while it waited: memory is ahead
				if r := s.im.rowOf(c); s.queue.isDirty(r) {
					rows[r] = struct{}{}
				}
				continue
			}
			changes[logicalID{c.table, c.id}] = c
		}
		raw.Put = append(raw.Put, r.raw.Put...)
		raw.Delete = append(raw.Delete, r.raw.Delete...)
	}
	var oldKeys []string
	if riders {
		s.rideLocked(changes)
		oldKeys = s.takeOldKeysLocked(changes)
	}
	for _, c := range changes {
		rows[s.im.rowOf(c)] = struct{}{}
	}
	var took map[row]struct{}
	var left bool
	if riders {
		s.packDueLocked()
		took, left = s.queue.takeDirty(s.mostSecrets())
		for r := range took {
			rows[r] = struct{}{}
		}
		s.queue.disarm()
	}
	rendered := make([]renderedRow, 0, len(rows))
	aside := make(map[Key][]Entry)
	for r := range rows {
		data, ok := s.im.render(r, changes)
		ok = ok && !s.tornLocked(r)
		rendered = append(rendered, renderedRow{r, data, ok})
		raw.Put = append(raw.Put, s.damage.takeUnder(s.keysOf(r), aside)...)
	}
	var removed []Key
	if riders {
		// First, since it leaves out what is about to be set aside.
		removed = s.takeRemovalsLocked(rows)
		raw.Delete = append(raw.Delete, removed...)
		for key, e := range s.damage.takeFree() {
			aside[key] = e
			raw.Put = append(raw.Put, e...)
			raw.Delete = append(raw.Delete, key)
		}
	}
	s.mu.Unlock()

	landed, err := s.commitRows(op, rendered, raw, oneBatch && (len(reqs) > 1 || len(took) > 0))
	s.mu.Lock()
	for id, c := range changes {
		if s.queue.deferredSince(id, begun) {
			continue // memory is ahead
		}
		if _, ok := landed[s.im.rowOf(c)]; ok || err == nil {
			if c.table == tSenderKey {
				s.wroteSenderKeyLocked(c)
			} else {
				s.im.apply(c)
			}
		}
	}
	for _, r := range rendered {
		if _, ok := landed[r.row]; ok && r.ok && r.row.table == tSecret {
			s.upkeep.grew(tSecret, 1)
		}
	}
	if err != nil {
		s.putBackAsidesLocked(aside, landed)
		s.upkeep.putBackRemovals(removed)
		for _, id := range oldKeys {
			if _, ok := landed[row{tSenderKey, id}]; !ok {
				s.keys.toRemove(id)
			}
		}
		s.queue.putBack(took, landed)
	} else {
		s.queue.landed(time.Now())
		s.upkeep.grew(tSecret, -len(removed))
		s.forgetLazyLocked()
	}
	if left {
		s.armLocked(0)
	}
	s.mu.Unlock()
	return err
}

type renderedRow struct {
	row  row
	data []byte
	ok   bool // false: remove
}

// commitRows encodes, splits and commits. landed says which rows are durable
// when an error breaks off a write that took several batches.
func (s *deviceStore) commitRows(op string, rows []renderedRow, raw Batch, oneBatch bool) (landed map[row]struct{}, err error) {
	lim := s.gate.kv.Limits()
	s.learnSplits()
	var parts, main []write
	var stale []Key
	splits := make(map[Key]*manifest)
	for _, r := range rows {
		sp := specOf(r.row.table)
		key, longID, hashed := s.keyOf(r.row)
		leave := func(key Key) {
			if old, ok := s.splits[key]; ok {
				stale = append(stale, partKeys(key, old)...)
				splits[key] = nil
			}
		}
		leave(key)
		old, moving := s.oldKeyOf(r.row)
		if moving {
			leave(old)
			moving = !slices.Contains(raw.Delete, old) // its removal is in the batch already
		}
		gone := write{row{}, Entry{Key: old}, true, sp.landing}
		if !r.ok {
			// The old name goes first: alone it would come back to life.
			if moving {
				main = append(main, gone)
			}
			main = append(main, write{r.row, Entry{Key: key}, true, sp.landing})
			continue
		}
		var value []byte
		encode := func() (err error) {
			if r.row.table == tHead {
				value, err = s.cfg.codec.wrap(key, s.headFlags(), r.data)
			} else {
				value, err = s.cfg.codec.encode(key, longID, hashed, r.data)
			}
			return err
		}
		if err := s.seal(op, encode); err != nil {
			return nil, err
		}
		if !lim.fits(key, value) {
			var pieces []Entry
			var m manifest
			cut := func() (err error) { pieces, m, value, err = s.cfg.codec.cut(lim, key, value); return err }
			if err := s.seal(op, cut); err != nil {
				return nil, err
			}
			for _, e := range pieces {
				parts = append(parts, write{entry: e})
			}
			splits[key] = &m
		}
		main = append(main, write{r.row, Entry{key, value}, false, sp.landing})
		if moving {
			main = append(main, gone)
		}
	}
	for _, e := range raw.Put {
		main = append(main, write{entry: e, landing: -1})
	}
	for _, k := range raw.Delete {
		main = append(main, write{entry: Entry{Key: k}, del: true, landing: 10})
	}
	if len(main) == 0 {
		return nil, nil
	}
	batches := chunk(lim, slices.Concat(parts, main))
	if len(batches) > 1 {
		if oneBatch {
			return nil, errTooMuch
		}
		slices.SortStableFunc(main, func(a, b write) int { return cmp.Compare(a.landing, b.landing) })
		batches = append(chunk(lim, parts), chunk(lim, s.withPrologue(main))...)
	}
	landed = make(map[row]struct{})
	for _, b := range batches {
		if err := s.commitBatch(op, b); err != nil {
			return landed, err
		}
		for _, w := range b {
			landed[w.row] = struct{}{}
		}
	}
	for k, m := range splits {
		if m == nil {
			delete(s.splits, k)
		} else {
			s.splits[k] = *m
		}
	}
	s.drop(op, stale)
	return landed, nil
}

// learnSplits takes over which rows were found to stand in parts while they
// were read, so that the parts go when the row does.
func (s *deviceStore) learnSplits() {
	s.mu.Lock()
	found := s.upkeep.loose.takeSplits()
	s.mu.Unlock()
	for _, f := range found {
		if _, ok := s.splits[f.key]; !ok {
			s.splits[f.key] = f.m
		}
	}
}

// withPrologue is for an app-state collection that does not fit into one
// batch: its version goes first, so that a crash on the way leaves version 0,
// which means a full sync, and never a version with the MACs of another.
func (s *deviceStore) withPrologue(main []write) []write {
	var first []write
	for _, w := range main {
		if w.row.table == tAppState && !w.del {
			first = append(first, write{row: row{}, entry: Entry{Key: w.entry.Key}, del: true, landing: -2})
		}
	}
	return append(first, main...)
}

// drop removes parts that nothing refers to any more.
func (s *deviceStore) drop(op string, stale []Key) {
	var ws []write
	for _, k := range stale {
		ws = append(ws, write{entry: Entry{Key: k}, del: true})
	}
	for _, b := range chunk(s.gate.kv.Limits(), ws) {
		if s.gate.commit(op, toBatch(b)) != nil {
			return // found again and removed when the device is next loaded
		}
	}
}

// seal runs an encoding that may ask a key service.
func (s *deviceStore) seal(op string, f func() error) error {
	if s.cfg.codec.aead == nil {
		return f()
	}
	return s.gate.run(op, true, func(context.Context) error { return f() })
}

func (s *deviceStore) genOf(sp spec) string {
	if sp.global {
		return globalGen
	}
	return s.gen
}

func (s *deviceStore) headFlags() byte {
	if s.names.Load() != nil {
		return flagNames
	}
	return 0
}

// keyOf is where a row stands.
func (s *deviceStore) keyOf(r row) (k Key, longID string, hashed bool) {
	sp := specOf(r.table)
	if n := s.names.Load(); n != nil && sp.private {
		return n.at(sp.kind, r.table, s.genOf(sp), r.bucket), r.bucket, true
	}
	id, hashed := keyID(r.bucket)
	return Key{sp.kind, s.genOf(sp) + "/" + id}, r.bucket, hashed
}
