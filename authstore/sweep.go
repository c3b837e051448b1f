package authstore

import (
	"context"
	"strings"
	"time"
)

// Message secrets and sender keys are read on demand, so finding old ones is a
// look at the whole table. It happens beside everything else, a twelfth of their
// age after the last one; the account remembers when that was. It counts the
// table too, and an account whose table was never counted is looked at once.

const (
	removeAtOnce = 32        // rows of a table that one commit takes along
	sweepAgain   = time.Hour // after a look that failed
)

// aging is a table that is read on demand and whose rows have an age.
type aging struct {
	table tableID
	note  string // a single value: since when each row has a time, and when the table was last looked at
	age   func(Retention) time.Duration
	name  string
}

// agings is never written to.
var agings = [...]aging{
	{tSecret, "secret_sweep", func(r Retention) time.Duration { return r.MessageSecrets }, "message secrets"},
	{tSenderKey, "senderkey_sweep", func(r Retention) time.Duration { return r.SenderKeys }, "sender keys"},
}

func sweepValue(noted, swept time.Time) []byte { return fieldsOf(noted.Unix(), swept.Unix()) }

func parseSweep(v []byte) (noted, swept time.Time) {
	f := fields{b: v}
	return time.Unix(f.varint(), 0), time.Unix(f.varint(), 0)
}

// sweep removes what is too old. It does no I/O by itself.
func (s *deviceStore) sweep() {
	limit := before(s.cfg.retention.PrivacyTokens).Unix()
	_ = s.update(context.Background(), "delete old privacy tokens", lazily, func(func(tableID, string) ([]byte, bool)) (changes []change) {
		s.im.each(tToken, func(id string, v []byte) {
			if t, err := parseToken(v); err == nil && t.at < limit {
				changes = append(changes, del(tToken, id))
			}
		})
		return append(changes, s.surplusLIDsLocked()...)
	})
	for i, a := range agings {
		if s.sweepDue(i) {
			s.inBackground(func() {
				if err := s.sweepTable(a); err != nil {
					s.cfg.log.Warn("old rows were not looked for, this is tried again in an hour", "rows", a.name, "error", err)
					s.mu.Lock()
					s.sweepAt[i] = time.Now().Add(sweepAgain)
					s.mu.Unlock()
				}
			})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, changed := s.sizesLocked(); changed && !s.closed && s.gen != "" {
		s.laterLocked(lazily, c)
	}
}

// sweepDue reports whether a table is to be looked at, and notes that it is
// being done.
func (s *deviceStore) sweepDue(i int) bool {
	a := agings[i]
	age := a.age(s.cfg.retention)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.closed || s.gen == "" {
		return false
	}
	if _, ok := s.im.get(tMisc, a.note); !ok {
		s.laterLocked(lazily, put(tMisc, a.note, sweepValue(now, now)))
	}
	waiting := len(s.removals) // what the last look has found
	if a.table == tSenderKey {
		waiting = len(s.keys.old)
	}
	if waiting > 0 || now.Before(s.sweepAt[i]) {
		return false
	}
	v, _ := s.im.get(tMisc, a.note)
	_, swept := parseSweep(v)
	if s.sizes[a.table].known && (age == Forever || now.Before(swept.Add(age/12))) {
		return false
	}
	s.sweepAt[i] = now.Add(age / 12)
	if a.table == tSenderKey {
		s.keys.during = make(map[string]struct{})
	}
	return true
}

// sweptRow is a row that a look at a table has found.
type sweptRow struct {
	key Key
	id  string
	at  int64 // Unix seconds of its last use; of one without a time, the first look
}

// sweepTable looks for rows that are too old. It never ends the term.
func (s *deviceStore) sweepTable(a aging) error {
	limit := before(a.age(s.cfg.retention)).Unix()
	s.mu.Lock()
	v, _ := s.im.get(tMisc, a.note)
	s.mu.Unlock()
	noted, _ := parseSweep(v)
	prefix := s.genOf(specOf(a.table)) + "/"
	var answer result[[]sweptRow]
	err := s.cfg.call(context.Background(), "delete old "+a.name, func(ctx context.Context) error {
		var rows []sweptRow
		for e, err := range s.gate.kv.Scan(ctx, specOf(a.table).kind, prefix) {
			if err != nil {
				return err
			}
			r := sweptRow{e.Key, "", time.Now().Unix()} // whoever asks for a row that does not open finds out what it is
			rec, err := s.cfg.codec.decode(e.Key, strings.TrimPrefix(e.Key.ID, prefix), e.Value)
			if err == nil && rec.split == nil {
				r.id, r.at = rec.id, a.table.usedAt(rec.data, noted)
			}
			rows = append(rows, r)
		}
		return answer.of(rows, nil)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	during := s.keys.during
	if a.table == tSenderKey {
		s.keys.during = nil
	}
	if err != nil || s.closed {
		return err
	}
	rows := answer.get()
	s.sizes[a.table] = size{len(rows), true}
	newest := make(map[string]int64, len(rows)) // a row may stand under two names for a moment
	for _, r := range rows {
		newest[r.id] = max(newest[r.id], r.at)
	}
	for _, r := range rows {
		_, used := during[r.id]
		switch {
		case newest[r.id] >= limit || r.id == "":
		case a.table == tSecret:
			s.removals = append(s.removals, r.key)
		case !used:
			s.keys.toRemove(r.id)
		}
	}
	s.laterLocked(lazily, put(tMisc, a.note, sweepValue(noted, time.Now())))
	return nil
}

// usedAt is when a row was last used, Unix seconds. One without a time counts
// from noted.
func (t tableID) usedAt(v []byte, noted time.Time) int64 {
	var at int64
	var ok bool
	if t == tSecret {
		at, ok = secretTime(v)
	} else {
		at, ok = senderKeyTime(v)
	}
	if !ok {
		return noted.Unix()
	}
	return at
}

// takeRemovalsLocked gives what the next commit takes along, and leaves out what
// it writes itself. mu is held.
func (s *deviceStore) takeRemovalsLocked(rows map[row]struct{}) (keys []Key) {
	if len(s.removals) == 0 {
		return nil
	}
	busy := make(map[Key]struct{})
	for r := range rows {
		if r.table == tSecret {
			key, _, _ := s.keyOf(r)
			busy[key] = struct{}{}
			if old, ok := s.oldKeyOf(r); ok {
				busy[old] = struct{}{}
			}
		}
	}
	n := min(len(s.removals), removeAtOnce)
	for _, k := range s.removals[:n] {
		if _, ok := busy[k]; !ok && s.asides[k] == nil {
			keys = append(keys, k)
		}
	}
	s.removals = s.removals[n:]
	return keys
}

// secretTime is when a stored secret was written, if that was noted.
func secretTime(v []byte) (unix int64, ok bool) {
	f := fields{b: v}
	for range 4 {
		f.bytes()
	}
	if f.err != nil || len(f.b) == 0 {
		return 0, false
	}
	unix = f.varint()
	return unix, f.err == nil
}
