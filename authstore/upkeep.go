package authstore

import (
	"slices"
	"time"
)

// upkeep is what a device sees to beside its messages: when the tables that are read on
// demand are next looked at, how many entries they have, and which rows are to go.
// deviceStore.mu guards it.
type upkeep struct {
	lookAt   [numTables]time.Time // zero: now
	sizes    [numTables]size
	removals []Key // old rows that the next commits take along, some each
	loose    looseRows
}

// size is how many entries a table has that is read on demand.
type size struct {
	n     int
	known bool
}

// due reports whether a table may be looked at.
func (u *upkeep) due(t tableID, now time.Time) bool { return !now.Before(u.lookAt[t]) }

// lookAgain says when a table is next due.
func (u *upkeep) lookAgain(t tableID, at time.Time) { u.lookAt[t] = at }

// counted notes how many entries a table has.
func (u *upkeep) counted(t tableID, n int) { u.sizes[t] = size{n, true} }

// grew counts n entries more. Of a table that was never counted it counts nothing.
func (u *upkeep) grew(t tableID, n int) {
	if sz := &u.sizes[t]; sz.known {
		sz.n = max(sz.n+n, 0)
	}
}

// size is how many entries a table has, if that is known.
func (u *upkeep) size(t tableID) (n int, known bool) { return u.sizes[t].n, u.sizes[t].known }

// remove lets a later commit take the removal of key along.
func (u *upkeep) remove(key Key) { u.removals = append(u.removals, key) }

// waiting is how many removals no commit has taken along yet.
func (u *upkeep) waiting() int { return len(u.removals) }

// takeRemovals gives what one commit takes along. A row for which leave says
// yes needs no removal, and is forgotten.
func (u *upkeep) takeRemovals(leave func(Key) bool) (keys []Key) {
	n := min(len(u.removals), removeAtOnce)
	for _, k := range u.removals[:n] {
		if !leave(k) {
			keys = append(keys, k)
		}
	}
	u.removals = u.removals[n:]
	return keys
}

// putBackRemovals is for those that takeRemovals gave and whose commit failed.
func (u *upkeep) putBackRemovals(keys []Key) { u.removals = slices.Concat(keys, u.removals) }

// looseRows are rows that were met while reading and need more work.
type looseRows struct {
	splits   []foundSplit                 // rows that stand in parts
	orphans  []Key                        // parts without a manifest
	doubtful map[tableID]map[Key]struct{} // parts that may be such
}

type foundSplit struct {
	key Key
	m   manifest
}

// split notes that a row stands in parts.
func (l *looseRows) split(key Key, m manifest) { l.splits = append(l.splits, foundSplit{key, m}) }

// takeSplits gives the rows that were found to stand in parts since it was last called.
func (l *looseRows) takeSplits() []foundSplit {
	found := l.splits
	l.splits = nil
	return found
}

// orphan notes a part to which nothing refers.
func (l *looseRows) orphan(part Key) { l.orphans = append(l.orphans, part) }

// doubt notes a part to which perhaps no row of t refers.
func (l *looseRows) doubt(t tableID, part Key) {
	if l.doubtful == nil {
		l.doubtful = make(map[tableID]map[Key]struct{})
	}
	if l.doubtful[t] == nil {
		l.doubtful[t] = make(map[Key]struct{})
	}
	l.doubtful[t][part] = struct{}{}
}

// takeParts gives the parts that were noted. They are the caller's.
func (l *looseRows) takeParts() (orphans []Key, doubtful map[tableID]map[Key]struct{}) {
	orphans, doubtful = l.orphans, l.doubtful
	l.orphans, l.doubtful = nil, nil
	return orphans, doubtful
}
