package postgresbackend_test

import (
	"context"
	"log"
	"os"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/postgresbackend"
)

// Many accounts share one database and one pool.
func ExampleOpen() {
	ctx := context.Background()
	db, err := postgresbackend.Open(ctx, os.Getenv("DATABASE_URL")) // or a *pgxpool.Pool of yours
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil { // explicit: nothing else creates a table
		log.Fatal(err)
	}
	for _, account := range []string{"support", "sales"} {
		backend, err := db.Account(account)
		if err != nil {
			log.Fatal(err)
		}
		m, err := stability.New(stability.WithBackend(backend))
		if err != nil {
			log.Fatal(err)
		}
		defer m.Close(ctx)
	}
}
