//! The tables explain themselves.

use octopus_tests::postgres::Database;

#[tokio::test]
async fn every_table_column_type_and_function_for_others_has_a_comment() {
    let database = Database::new().await;
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '')
           from pg_class c
           left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname <> '_sqlx_migrations'
            and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)
         union all
         select p.oid::regprocedure::text from pg_proc p
          where p.pronamespace = 'public'::regnamespace
            and has_function_privilege('octopus_manager', p.oid, 'execute') and obj_description(p.oid, 'pg_proc') is null
         union all
         select t.typname from pg_type t
          where t.typnamespace = 'public'::regnamespace and t.typtype = 'e' and obj_description(t.oid, 'pg_type') is null
         order by 1",
    )
    .fetch_all(&database.owner)
    .await
    .unwrap();
    assert!(silent.is_empty(), "without a comment: {silent:?}");
}

#[tokio::test]
async fn partitioned_tables_have_a_default_and_no_foreign_key_points_into_them() {
    let database = Database::new().await;
    let odd: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c join pg_partitioned_table p on p.partrelid = c.oid
          where p.partdefid = 0 or exists (select from pg_constraint k where k.confrelid = c.oid)",
    )
    .fetch_all(&database.owner)
    .await
    .unwrap();
    assert!(odd.is_empty(), "{odd:?}");
}
