package firestoresim

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// world is one empty project of a Firestore.
type world struct {
	*testing.T
	ctx    context.Context
	c      *firestore.Client
	raw    pb.FirestoreClient
	db     string
	client func() *firestore.Client // another one
}

type behaviour struct {
	name string
	test func(w *world)
}

// TestBehaviour runs every behaviour against this package's server, in virtual
// and in real time, and against the official emulator.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	t.Run("sim in a bubble", func(t *testing.T) {
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { onSim(t, b) }) })
		}
	})
	t.Run("sim in real time", func(t *testing.T) {
		t.Parallel()
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { t.Parallel(); onSim(t, b) })
		}
	})
	t.Run("emulator", func(t *testing.T) {
		t.Parallel()
		e := NeedEmulator(t)
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { t.Parallel(); onEmulator(t, e, b) })
		}
	})
}

func onSim(t *testing.T, b behaviour) {
	s := New()
	t.Cleanup(s.Close)
	conn, err := s.Dial("")
	require.NoError(t, err)
	run(t, b, conn, func(ctx context.Context, project string) (*firestore.Client, error) { return s.Client(ctx, project) })
}

func onEmulator(t *testing.T, e *Emulator, b behaviour) {
	conn, err := e.Dial()
	require.NoError(t, err)
	run(t, b, conn, e.Client)
}

func project() string { return "demo-" + strings.ToLower(rand.Text()[:12]) }

func run(t *testing.T, b behaviour, conn *grpc.ClientConn, client func(context.Context, string) (*firestore.Client, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(func() { conn.Close() })
	p := project()
	another := func() *firestore.Client {
		c, err := client(ctx, p)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	b.test(&world{T: t, ctx: ctx, c: another(), raw: pb.NewFirestoreClient(conn),
		db: "projects/" + p + "/databases/(default)", client: another})
}

type data = map[string]any

func (w *world) set(path string, d data) *firestore.WriteResult {
	w.Helper()
	res, err := w.c.Doc(path).Set(w.ctx, d)
	require.NoError(w, err)
	return res
}

func (w *world) get(path string) *firestore.DocumentSnapshot {
	w.Helper()
	all, err := w.c.GetAll(w.ctx, []*firestore.DocumentRef{w.c.Doc(path)})
	require.NoError(w, err)
	return all[0]
}

func (w *world) code(want codes.Code, err error) {
	w.Helper()
	require.Equal(w, want, status.Code(err), "%v", err)
}

func (w *world) ids(q firestore.Query) []string {
	w.Helper()
	docs, err := q.Documents(w.ctx).GetAll()
	require.NoError(w, err)
	ids := []string{}
	for _, d := range docs {
		ids = append(ids, d.Ref.ID)
	}
	return ids
}

// noop is the write of a fence: it deletes a field that is absent.
var noop = []firestore.Update{{Path: "_", Value: firestore.Delete}}

func (w *world) name(path string) string { return w.db + "/documents/" + path }

func (w *world) commit(writes ...*pb.Write) (*pb.CommitResponse, error) {
	return w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Writes: writes})
}

func (w *world) update(path string, fs fields, mask ...string) *pb.Write {
	wr := &pb.Write{Operation: &pb.Write_Update{Update: &pb.Document{Name: w.name(path), Fields: fs}}}
	if mask != nil {
		wr.UpdateMask = &pb.DocumentMask{FieldPaths: mask}
	}
	return wr
}

func integer(n int64) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: n}}
}

func blob(n int) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_BytesValue{BytesValue: make([]byte, n)}}
}

func array(vs ...*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: vs}}}
}

func nested(depth int) *pb.Value {
	v := integer(1)
	for range depth {
		v = &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields{"d": v}}}}
	}
	return v
}

var behaviours = slices.Concat(writeBehaviours, mergeBehaviours, readBehaviours, refusalBehaviours, queryBehaviours,
	transactionBehaviours, listenerBehaviours)
