package authstore

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// Backups. A backup is a copy of ratchets, and ratchets go on. A message
// encrypted since the backup used counters that the backup would use again,
// with the same keys: peers drop such messages without a word. So Restore
// takes over what stays true and lets the rest be made anew:
//
//	credentials, identities, names, settings,     kept: no pairing, and no
//	tokens, secrets, LID map, app state            peer sees a new identity
//	sessions                                       dropped: our next message to a
//	                                               peer begins a new one; a peer's
//	                                               next is asked for once more
//	our own sender keys                            dropped: made anew by the next
//	                                               message to the group
//	what was sent beside sessions                  kept, in a row of its own
//	sender keys of others                          kept: they only go forward
//	one-time prekeys                               kept for what was begun with
//	                                               them, never offered again; new
//	                                               ones are uploaded at once, with
//	                                               ids far beyond
//	signed prekey                                  kept: whatsmeow has one for the
//	                                               life of a device

// RestoredUnchanged says that the device was not used since the export: it was
// stopped, and has not run anywhere since. Then the ratchets are right, and
// everything is kept.
func RestoredUnchanged() ImportOption { return func(o *importConfig) { o.unchanged = true } }

// restoredGap is how far the prekey counter goes on after a restore: ids that
// were given out since the backup must not be given to other keys.
const restoredGap = 1 << 16

// Export writes the device of from to w as an encrypted archive, AES-256-GCM
// under key. The archive has everything needed to be the account: keep the key
// apart from it. After an error what was written is no archive.
//
// One table is held in memory at a time; of a running account, everything
// that it has in memory anyway, and no copy of it. Of the options only
// OnProgress means something here: it is told of each table.
func Export(ctx context.Context, from Source, w io.Writer, key [32]byte, opts ...ImportOption) (Report, error) {
	var o importConfig
	for _, opt := range opts {
		opt(&o)
	}
	began := time.Now()
	r := Report{From: from.String(), Entries: make(map[Kind]int)}
	err := export(ctx, from, w, key, &r, o.progress)
	r.Took = time.Since(began)
	if err != nil {
		return r, fmt.Errorf("authstore: export %s: %w", from, err)
	}
	return r, nil
}

func export(ctx context.Context, from Source, w io.Writer, key [32]byte, r *Report, progress func(Progress)) error {
	if err := from.usable(nil); err != nil {
		return err
	}
	v, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	r.JID = v.jid()
	sw, err := newSealWriter(w, key)
	if err != nil {
		return err
	}
	meta, err := json.Marshal(archiveMeta{JID: r.JID.String(), Created: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := writeRecord(sw, recordMeta, "", meta); err != nil {
		return err
	}
	for i, t := range importOrder() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		im, err := v.table(ctx, t)
		if err != nil {
			return err
		}
		kind := specOf(t).kind
		if c := im.count(); c > 0 {
			r.Entries[kind] = c
		}
		rows := im.rowsIn(t)
		for _, id := range slices.Sorted(maps.Keys(rows)) {
			if err := writeRecord(sw, string(kind), id, rows[id]); err != nil {
				return err
			}
			r.Rows++
		}
		if progress != nil {
			progress(Progress{Phase: "export", Kind: kind, Table: i + 1, Tables: importTables, Done: len(rows), Total: len(rows), Bytes: sw.n})
		}
	}
	if err := from.usable(nil); err != nil {
		return err
	}
	if err := writeRecord(sw, recordEnd, "", binary.AppendUvarint(nil, uint64(r.Rows)+1)); err != nil {
		return err
	}
	if err := sw.Close(); err != nil {
		return err
	}
	r.Written, r.Bytes, r.Warnings = r.Rows, sw.n, v.warnings()
	return nil
}

// Restore puts the device of an archive into to, like Import. An error leaves
// the target as it was. The archive is read to its end, and found whole,
// before anything is written. It holds the archive in memory.
//
// Unless RestoredUnchanged is given, ratchets and prekeys are rotated as far
// as that can be done from here; the Report's Warnings say what it means. The
// service may have removed the device since; it says so at the login.
func Restore(ctx context.Context, r io.Reader, key [32]byte, to *Container, f Fence, opts ...ImportOption) (Report, error) {
	a, err := readArchive(r, key)
	if err != nil {
		return Report{From: archiveName}, fmt.Errorf("authstore: restore: %w", err)
	}
	var o importConfig
	for _, opt := range opts {
		opt(&o)
	}
	var warn []string
	if !o.unchanged {
		if warn, err = a.rotate(); err != nil {
			return Report{From: archiveName, JID: a.device}, fmt.Errorf("authstore: restore: %w", err)
		}
	}
	report, err := Import(ctx, archiveSource{a}, to, f, opts...)
	report.Warnings = append(report.Warnings, warn...)
	return report, err
}

// rotate drops what must not be used twice.
func (a *archive) rotate() ([]string, error) {
	v, _ := a.im.get(tDevice, deviceID)
	d, err := decodeDevice(v)
	if err != nil {
		return nil, err
	}
	sessions := len(a.im.flat[tSession])
	clear(a.im.flat[tSession])
	a.im.packBeside("restored-" + strconv.FormatInt(a.meta.Created.UnixMilli(), 36))
	var own []string
	for _, name := range []string{d.JID, d.LID} {
		if jid, err := types.ParseJID(name); err == nil && jid.User != "" {
			own = append(own, jid.SignalAddress().String())
		}
	}
	keys := 0
	for id := range a.im.flat[tSenderKey] {
		for _, addr := range own {
			// Under the id's two forms, see senderKeyID.
			if strings.HasPrefix(id, addr+"/") || strings.HasPrefix(id, addr+"\x00") {
				delete(a.im.flat[tSenderKey], id)
				keys++
			}
		}
	}
	held := 0
	for _, bucket := range a.im.packed[tPreKey] {
		for id, v := range bucket {
			if len(v) == 33 {
				bucket[id] = append([]byte{preKeyHeld}, v[1:]...)
				held++
			}
		}
	}
	next := uint32(firstPreKey)
	if v, ok := a.im.get(tMisc, nextPreKey); ok && len(v) == 4 {
		next = binary.LittleEndian.Uint32(v)
	}
	a.im.apply(put(tMisc, nextPreKey, binary.LittleEndian.AppendUint32(nil, preKeyAfter(next, restoredGap))))
	return []string{
		fmt.Sprintf("this backup is from %s: what was received or sent since is not in it, and messages acknowledged since are not delivered again", a.meta.Created.Format(time.RFC3339)),
		fmt.Sprintf("%d sessions and %d own sender keys were dropped, since their counters may have been used: the first message in each direction begins a new session, and a peer's may come only after a retry, or not at all if the peer is gone", sessions, keys),
		fmt.Sprintf("%d one-time prekeys are kept for what was begun with them and not offered again; prekeys uploaded since the backup are lost: what peers begin with them comes after a retry", held),
		"the identity, the noise key and the signed prekey are those of the backup: if it was in wrong hands, log the device out and pair again",
	}, nil
}

const archiveName = "an archive"

type archiveSource struct{ a *archive }

func (s archiveSource) String() string                     { return archiveName }
func (s archiveSource) usable(*importConfig) error         { return nil }
func (s archiveSource) open(context.Context) (view, error) { return s, nil }
func (s archiveSource) jid() types.JID                     { return s.a.device }
func (s archiveSource) warnings() []string                 { return nil }
func (s archiveSource) close()                             {}

func (s archiveSource) table(_ context.Context, t tableID) (*image, error) {
	im := newImage()
	im.flat[t], im.packed[t] = s.a.im.flat[t], s.a.im.packed[t]
	im.beside = s.a.im.besideOf(t)
	return settled(t, im)
}
