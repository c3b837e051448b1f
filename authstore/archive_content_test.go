package authstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sealedRecords is an archive with these records, kind and id and value, sealed
// with the right key.
func sealedRecords(t *testing.T, records ...[3]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newSealWriter(&b, archiveKey)
	require.NoError(t, err)
	for _, r := range records {
		require.NoError(t, writeRecord(w, r[0], r[1], []byte(r[2])))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func recordsOf(t *testing.T, archive []byte) (out [][3]string) {
	t.Helper()
	or, err := newOpenReader(bytes.NewReader(archive), archiveKey)
	require.NoError(t, err)
	r := bufio.NewReader(or)
	for {
		var rec [3]string
		for i := range rec {
			piece, err := readPiece(r, maxArchiveValue)
			require.NoError(t, err)
			rec[i] = string(piece)
		}
		if out = append(out, rec); rec[0] == recordEnd {
			return out
		}
	}
}

// An archive that opens may still be none that anybody has exported: its writer was
// killed, or is another program. Each such one is refused whole, with the reason.
func TestArchiveThatOpensIsLookedAtToo(t *testing.T) {
	kv, f := source(t)
	whole := exported(t, FromKV("old", kv, f))
	require.Equal(t, archiveMagic, string(whole[:len(archiveMagic)]))
	records := recordsOf(t, whole)
	end := func(n int) [3]string { return [3]string{recordEnd, "", string(binary.AppendUvarint(nil, uint64(n)))} }
	var device [3]string
	for _, r := range records {
		if r[0] == "device" {
			device = r
		}
	}
	meta := func(jid string) [3]string { return [3]string{recordMeta, "", `{"jid":"` + jid + `"}`} }
	mine := meta(testJID(1).String())
	whole2 := func(rs ...[3]string) []byte { return sealedRecords(t, rs...) }
	_, err := readArchive(bytes.NewReader(whole2(mine, device, end(2))), archiveKey)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"without the device":      {whole2(mine, end(1)), "it has no device"},
		"of another device":       {whole2(meta(testJID(2).String()), device, end(2)), "another device"},
		"a device of no form":     {whole2(mine, [3]string{"device", device[1], "{}"}, end(2)), "key is missing"},
		"a JID of no form":        {whole2(meta("1:x:y@s.whatsapp.net"), device, end(2)), "JID does not parse"},
		"a JID without a user":    {whole2(meta("s.whatsapp.net"), device, end(2)), "JID does not parse"},
		"meta of no form":         {whole2([3]string{recordMeta, "", "x"}, device, end(2)), "does not parse"},
		"one record fewer":        {whole2(mine, device, end(3)), "another number"},
		"a count and more":        {whole2(mine, device, [3]string{recordEnd, "", "\x02\x00"}), "another number"},
		"records after its end":   {whole2(mine, device, end(2), device), "something follows"},
		"two beginnings":          {whole2(mine, device, mine, end(3)), "once what it is"},
		"no beginning":            {whole2(device, end(1)), "once what it is"},
		"no end":                  {whole2(mine, device), "breaks off"},
		"a packed row of no form": {whole2(mine, device, [3]string{"prekey", "0", "\xff"}, end(3)), "row"},
		"a long kind":             {whole2(mine, device, [3]string{strings.Repeat("k", maxArchiveKind+1), "", ""}), "a piece of 33 bytes"},
		"a length without end":    {sealedBytes(t, strings.Repeat("\x80", 20)), "a length that does not end"},
	} {
		to := newMapKV()
		r, err := Restore(bg, bytes.NewReader(c.archive), archiveKey, New(to), newFence(1))
		require.ErrorIs(t, err, ErrArchive, name)
		if c.says != "row" {
			require.ErrorContains(t, err, c.says, name)
		}
		require.ErrorContains(t, err, "restore", name)
		require.Equal(t, archiveName, r.From)
		require.Zero(t, to.commits.Load())
	}
}

func sealedBytes(t *testing.T, plain string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newSealWriter(&b, archiveKey)
	require.NoError(t, err)
	_, err = w.Write([]byte(plain))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// A reader that fails is no damaged archive: the file is fine, and another attempt
// reads it.
func TestReaderThatFailsIsNoDamagedArchive(t *testing.T) {
	kv, f := source(t)
	whole := exported(t, FromKV("old", kv, f))
	for _, at := range []int{0, 3, archiveHeader, archiveHeader + 2, archiveHeader + 10, len(whole) - 1} {
		_, err := readArchive(io.MultiReader(bytes.NewReader(whole[:at]), errReader{}), archiveKey)
		require.ErrorContains(t, err, "the disk is gone", "after %d bytes", at)
		require.False(t, errors.Is(err, ErrArchive), "after %d bytes", at)
	}
	_, err := readRecords(errReader{})
	require.ErrorContains(t, err, "the disk is gone")
}

// A restore tells the operator truly what it did; and nothing that an account
// used since its backup comes again, however long the name of a group, and however
// far its prekeys had come.
func TestRestoreCountsWhatItDropsAndGoesOnBeyondTheBackup(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 2)))
	own := []string{d.GetLID().SignalAddress().String(), d.ID.SignalAddress().String()}
	long := strings.Repeat("g", 2000) + "@g.us"
	for _, sender := range append([]string{"5:0"}, own...) {
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", sender, validSenderKey([]byte(sender))))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, long, sender, validSenderKey([]byte(sender))))
	}
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
	require.NoError(t, err)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[2].KeyID))
	const far = 200_000
	require.NoError(t, c.Close(bg))
	var b bytes.Buffer
	_, err = Export(bg, FromKV("old", kv, f), &b, archiveKey)
	require.NoError(t, err)
	a, err := readArchive(bytes.NewReader(b.Bytes()), archiveKey)
	require.NoError(t, err)
	a.im.apply(put(tMisc, nextPreKey, binary.LittleEndian.AppendUint32(nil, far)))
	warn, err := a.rotate()
	require.NoError(t, err)
	require.Len(t, warn, 4)
	require.Contains(t, warn[1], "2 sessions and 4 own sender keys were dropped")
	require.Contains(t, warn[2], fmt.Sprint(len(list), " one-time prekeys are kept"))
	next, ok := a.im.get(tMisc, nextPreKey)
	require.True(t, ok)
	require.Greater(t, binary.LittleEndian.Uint32(next), uint32(far+restoredGap))
	for _, group := range []string{"1@g.us", long} {
		for _, sender := range own {
			_, ok := a.im.get(tSenderKey, senderKeyID(group, sender))
			require.False(t, ok)
		}
		_, ok := a.im.get(tSenderKey, senderKeyID(group, "5:0"))
		require.True(t, ok)
	}

	// One from before prekeys were counted begins beyond the gap as well.
	a.im.apply(put(tMisc, nextPreKey, nil))
	_, err = a.rotate()
	require.NoError(t, err)
	next, _ = a.im.get(tMisc, nextPreKey)
	require.Greater(t, binary.LittleEndian.Uint32(next), uint32(restoredGap))
}
