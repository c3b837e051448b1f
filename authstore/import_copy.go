package authstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// importer carries one import from table to table.
type importer struct {
	s    *deviceStore
	o    *importConfig
	r    *Report
	sums map[tableID][32]byte // of the source's tables, as copied
	late bool                 // the source is an archive: the target's knowledge is newer

	strays  []Key       // rows of the table that was read last, where none belongs
	damaged []loadedRow // of the book of messages: see copyBook
}

// importOrder: the LID map and the book of messages last, since they are the
// account's and join what the target knows already.
func importOrder() []tableID {
	var out []tableID
	for t := range numTables {
		if !specOf(t).global {
			out = append(out, t)
		}
	}
	return append(out, tLID, tMessage)
}

// rowsIn gives a table as rows, the way it stands in a KV.
func (im *image) rowsIn(t tableID) map[string][]byte {
	if t == tSession && len(im.beside) > 0 {
		out := maps.Clone(im.flat[t])
		for id, entries := range im.beside {
			if session, ok := out[id]; ok {
				out[id] = withBeside(session, entries)
			}
		}
		return out
	}
	if !im.specs[t].packed {
		return im.flat[t]
	}
	out := make(map[string][]byte, len(im.packed[t]))
	for bucket := range im.packed[t] {
		if data, ok := im.render(row{t, bucket}, nil); ok {
			out[bucket] = data
		}
	}
	return out
}

func sumOf(rows map[string][]byte) [32]byte {
	h := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		var n [16]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(id)))
		binary.LittleEndian.PutUint64(n[8:], uint64(len(rows[id])))
		h.Write(n[:])
		h.Write([]byte(id))
		h.Write(rows[id])
	}
	return [32]byte(h.Sum(nil))
}

func count(ctx context.Context, v view, o *importConfig, r *Report) error {
	for i, t := range importOrder() {
		im, err := v.table(ctx, t)
		if err != nil {
			return err
		}
		kind := specOf(t).kind
		n := len(im.rowsIn(t))
		r.Rows += n
		if c := im.count(); c > 0 {
			r.Entries[kind] = c
		}
		if o.progress != nil {
			o.progress(Progress{Phase: "copy", Kind: kind, Table: i + 1, Tables: importTables, Done: n, Total: n})
		}
	}
	r.Warnings = append(r.Warnings, v.warnings()...)
	return nil
}

// target reads a table of the generation that is being filled.
func (m *importer) target(ctx context.Context, t tableID) (map[string][]byte, error) {
	rows, err := m.s.scanEvery(m.s.whole(ctx), "import", t, "")
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(rows))
	m.strays, m.damaged = m.strays[:0], nil
	for _, r := range rows {
		switch key, _, _ := m.s.keyOf(r.row); {
		case r.err == nil && key == r.key:
			out[r.row.bucket] = r.data
		case r.err == nil || !specOf(t).global:
			// Begun before the names were sealed, under another key, or damaged.
			m.strays = append(m.strays, r.key)
		case t == tMessage && errors.Is(r.err, ErrCorrupt):
			out[r.row.bucket] = nil
			m.damaged = append(m.damaged, r)
		default:
			return nil, r.err // not ours to replace
		}
	}
	for _, f := range m.s.upkeep.loose.takeSplits() {
		m.s.splits[f.key] = f.m // so that what it replaces goes with it
	}
	return out, nil
}

func (m *importer) copyAll(ctx context.Context, v view) error {
	for i, t := range importOrder() {
		im, err := v.table(ctx, t)
		if err != nil {
			return err
		}
		kind := specOf(t).kind
		if c := im.count(); c > 0 {
			m.r.Entries[kind] = c
		}
		want := im.rowsIn(t)
		m.sums[t] = sumOf(want)
		if t == tMessage {
			continue // copyBook
		}
		have, err := m.target(ctx, t)
		if err != nil {
			return err
		}
		if t == tLID {
			if want, err = mergeLIDs(have, im, m.late); err != nil {
				return err
			}
		}
		if err := m.copyTable(ctx, t, i+1, want, have); err != nil {
			return err
		}
	}
	return nil
}

func (m *importer) copyTable(ctx context.Context, t tableID, n int, want, have map[string][]byte) error {
	kind := specOf(t).kind
	var todo []renderedRow
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if old, ok := have[id]; ok && old != nil && bytes.Equal(old, want[id]) {
			m.r.Kept++
			continue
		}
		todo = append(todo, renderedRow{row{t, id}, want[id], true})
	}
	for id := range have {
		if _, ok := want[id]; !ok {
			todo = append(todo, renderedRow{row: row{t, id}})
		}
	}
	strays := slices.Clone(m.strays)
	for keys := range slices.Chunk(strays, importRows) {
		if _, err := m.s.commitRows("import "+string(kind), nil, Batch{Delete: keys}, false); err != nil {
			return err
		}
	}
	m.r.Rows += len(want)
	done := len(want) - len(todo)
	m.tell("copy", t, n, max(done, 0), len(want))
	for rows := range slices.Chunk(todo, importRows) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := m.s.commitRows("import "+string(kind), rows, Batch{}, false); err != nil {
			return err
		}
		for _, r := range rows {
			if r.ok {
				m.r.Written++
				m.r.Bytes += int64(len(r.data))
			}
		}
		done += len(rows)
		m.tell("copy", t, n, min(max(done, 0), len(want)), len(want))
	}
	return nil
}

func (m *importer) tell(phase string, t tableID, n, done, total int) {
	if m.o.progress != nil {
		m.o.progress(Progress{Phase: phase, Kind: specOf(t).kind, Table: n, Tables: importTables, Done: done, Total: total, Bytes: m.r.Bytes})
	}
}

// verifyAll reads source and target again and compares.
func (m *importer) verifyAll(ctx context.Context, v view) error {
	for i, t := range importOrder() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		im, err := v.table(ctx, t)
		if err != nil {
			return err
		}
		want := im.rowsIn(t)
		if sumOf(want) != m.sums[t] {
			return fmt.Errorf("%w (%s)", ErrSourceChanged, specOf(t).kind)
		}
		if t == tMessage {
			continue // copyBook
		}
		have, err := m.target(ctx, t)
		if err != nil {
			return err
		}
		if t == tLID {
			merged, err := mergeLIDs(have, im, m.late)
			if err != nil {
				return err
			}
			want = merged // nothing left to merge
		}
		if err := m.verify(t, i+1, want, have); err != nil {
			return err
		}
	}
	return nil
}

func (m *importer) verify(t tableID, n int, want, have map[string][]byte) error {
	if rows := len(have) + len(m.strays); rows != len(want) {
		return fmt.Errorf("%w: %d rows of kind %s instead of %d", ErrNotVerified, rows, specOf(t).kind, len(want))
	}
	for id, value := range want {
		if got, ok := have[id]; !ok || got == nil && len(value) > 0 || !bytes.Equal(got, value) {
			return fmt.Errorf("%w: a row of kind %s", ErrNotVerified, specOf(t).kind)
		}
		m.r.Verified++
	}
	m.tell("verify", t, n, len(want), len(want))
	return nil
}

// copyBook adds the source's entries about received messages to the target's, when
// all the rest is there. The target's own stay: WhatsApp has those messages no more.
// Earlier they would be handed over by a target that the import did not reach. The
// caller calls undo if a later step fails.
func (m *importer) copyBook(ctx context.Context, v view, usable func(*importConfig) error) (undo func(), err error) {
	im, err := v.table(ctx, tMessage)
	if err != nil {
		return nil, err
	}
	rows := im.rowsIn(tMessage)
	if sumOf(rows) != m.sums[tMessage] {
		return nil, fmt.Errorf("%w (%s)", ErrSourceChanged, specOf(tMessage).kind)
	}
	have, err := m.target(ctx, tMessage)
	if err != nil {
		return nil, err
	}
	want := maps.Clone(have)
	for id, value := range rows {
		if old, ok := have[id]; !ok || !m.late || old == nil {
			want[id] = value
		}
	}
	for id, value := range want {
		if value == nil {
			delete(want, id) // damaged: it stays as it is, and is set aside when it is read
			delete(have, id)
		}
	}
	var before []Entry // damaged, and the source has them
	for _, r := range m.damaged {
		if _, ok := want[r.row.bucket]; ok {
			delete(have, r.row.bucket)
			before = append(before, Entry{r.key, r.raw})
			if err := m.keepAside(r); err != nil {
				return nil, err
			}
		}
	}
	check := func() error {
		if err := m.copyTable(ctx, tMessage, importTables, want, have); err != nil {
			return err
		}
		now, err := m.target(ctx, tMessage)
		if err != nil {
			return err
		}
		maps.DeleteFunc(now, func(_ string, value []byte) bool { return value == nil })
		if err := m.verify(tMessage, importTables, want, now); err != nil {
			return err
		}
		return usable(m.o)
	}
	undo = func() { // as it was, where that can be
		_ = m.copyTable(context.WithoutCancel(ctx), tMessage, importTables, have, want)
		_, _ = m.s.commitRows("import", nil, Batch{Put: before}, false)
	}
	if err := check(); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// keepAside keeps a damaged row that is about to be written over, where that can be.
func (m *importer) keepAside(r loadedRow) error {
	m.s.cfg.incident(Incident{Kind: IncidentCorrupt, Row: r.key.Kind, Err: r.err})
	kept, err := m.s.aside(r.key, r.raw, r.err)
	if err == nil {
		_, err = m.s.commitRows("import", nil, Batch{Put: kept}, false)
	}
	if permanent(err) {
		return nil
	}
	return err
}

// mergeLIDs adds the source's LID map to the rows that the target has; where
// they disagree the source is right, or the target when the source is late. A LID
// and a number stand in it once.
func mergeLIDs(have map[string][]byte, from *image, late bool) (map[string][]byte, error) {
	im := newImage()
	for id, data := range have {
		if err := im.load(row{tLID, id}, data); err != nil {
			return nil, err
		}
	}
	var adds []change
	from.each(tLID, func(id string, v []byte) {
		back := "p"
		if strings.HasPrefix(id, "p") {
			back = "l"
		}
		old, known := im.get(tLID, id)
		_, taken := im.get(tLID, back+string(v))
		if late && (known || taken) {
			return
		}
		adds = append(adds, put(tLID, id, v))
		if known && !bytes.Equal(old, v) {
			im.apply(del(tLID, back+string(old)))
		}
	})
	for _, c := range adds {
		im.apply(c)
	}
	return im.rowsIn(tLID), nil
}
